//! Recognises a payload without a header by its time words, which no other encoding makes look alike.

use super::dat::{Dat, Record};
use super::evt2::Evt2;
use super::evt3::Evt3;
use super::evt4::Evt4;
use super::evt21::Evt21;
use super::word::{Encoding, Limits, Words, near};
use crate::format::Format;

/// Words that fit and are not rare, for an encoding to be possible: all but one in this many.
const FOREIGN: usize = 100;
/// Time words that are not near the one before, for an encoding to be possible: at most one in this many.
const JUMPS: usize = 20;

/// How well a payload fits an encoding: the part of its words that do, if it is possible at all.
fn fit<E: Encoding>(encoding: &E, payload: &[u8]) -> Option<f64> {
    let (mut words, mut foreign, mut times, mut jumps) = (0, 0, 0, 0);
    let mut last = None;
    for (_, word) in Words::new(encoding, payload, 0) {
        words += 1;
        foreign += usize::from(encoding.is_foreign(word) || encoding.is_rare(word));
        if let Some(value) = encoding.time(word) {
            times += 1;
            jumps += usize::from(last.is_some_and(|last| !near::<E>(last, value)));
            last = Some(value);
        }
    }
    let possible = times >= 2 && foreign * FOREIGN <= words && jumps * JUMPS <= times;
    possible.then(|| 1.0 - foreign as f64 / words as f64 - jumps as f64 / times as f64)
}

/// Whether a payload fits EVT2, whose first time word can look like the type and the size of DAT records.
pub(crate) fn is_evt2(payload: &[u8]) -> bool {
    fit(&Evt2::new(Limits::new(None, Evt2::RANGE)), payload).is_some()
}

/// Word order of an EVT2.1 payload, if only one is possible: whether it is the legacy one.
pub(crate) fn word_order(payload: &[u8]) -> Option<bool> {
    let [little, legacy] = [false, true].map(|legacy| Evt21::new(Limits::new(None, Evt2::RANGE), legacy));
    match (fit(&little, payload), fit(&legacy, payload)) {
        (Some(_), None) => Some(false),
        (None, Some(_)) => Some(true),
        // Where the masks have few bits, either order has only known types.
        (Some(_), Some(_)) => match (little.has_plain_times(payload), legacy.has_plain_times(payload)) {
            (true, false) => Some(false),
            (false, true) => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// The encoding that a payload without a header fits best; the extension decides between equals.
pub(crate) fn guess(payload: &[u8], extension: &str, reasons: &mut Vec<String>) -> Option<Format> {
    let limits = Limits::new(None, Evt2::RANGE);
    let evt21 = Evt21::new(limits, word_order(payload).unwrap_or(false));
    // The halves of EVT2.1 words are EVT2 words too where the masks have few bits. In EVT2 a word of nothing but zeros
    // before each time word would be no accident.
    let evt21_fit = fit(&evt21, payload);
    let halves = evt21_fit.is_some() && evt21.has_plain_times(payload);
    let records = Dat::new(Limits::new(None, Dat::RANGE), Record::CdV2, 8);
    let fits = [
        (Format::Evt2, fit(&Evt2::new(limits), payload).filter(|_| !halves)),
        (Format::Evt21, evt21_fit),
        (Format::Evt3, fit(&Evt3::new(limits), payload)),
        (Format::Evt4, fit(&Evt4::new(limits), payload)),
        // Every DAT record has a time: zeros and other runs would fit, so there must be some news in them.
        (
            Format::Dat,
            fit(&records, payload).filter(|_| payload.as_chunks::<8>().0.windows(2).filter(|pair| pair[0] != pair[1]).count() >= 2),
        ),
    ];
    let hinted = |format: Format| (format == Format::Dat) == (extension == "dat");
    let mut possible: Vec<_> = fits.into_iter().filter_map(|(format, fit)| Some((format, fit?))).collect();
    possible.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| hinted(b.0).cmp(&hinted(a.0))));
    let (format, fit) = *possible.first()?;
    reasons.push(format!("no header; {:.1} % of the first {} bytes fit {format}", 100.0 * fit, payload.len()));
    if possible.get(1).is_some_and(|(_, other)| *other >= fit) {
        reasons.push(format!("the extension `.{extension}` decides between encodings that fit alike"));
    }
    Some(format)
}
