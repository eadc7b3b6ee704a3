//! Chunks that h5py and hdf5plugin wrote, whole, in part and damaged.

use std::ops::Range;

use libdeflater::Decompressor;
use proptest::prelude::*;

use super::filter::{BLOSC, Bytes, Chunk, Decoder, Filter, FilterError};

/// Made by `tests/rust/data/make_hdf5_chunks.py`, where the layout is described.
const CHUNKS: &[u8] = include_bytes!("../../../tests/rust/data/hdf5_chunks.bin");

struct Case {
    name: String,
    filters: Vec<Filter>,
    mask: u32,
    element: usize,
    raw: Vec<u8>,
    decoded: Vec<u8>,
}

impl Case {
    fn decode(&self, decoder: &mut Decoder, raw: &[u8], wanted: Range<usize>, sink: &mut dyn FnMut(usize, &[u8])) -> Result<(), FilterError> {
        let chunk = Chunk { raw, mask: self.mask, size: self.decoded.len(), element: self.element };
        decoder.decode(&self.filters, chunk, wanted, sink)
    }
}

/// The same as the function of this name that made the file.
fn content(kind: u8, element: usize, size: usize) -> Vec<u8> {
    if kind == 0 {
        let value = |i: usize| (i / 3 * 5 + i / 89) as u64;
        return (0..size).map(|at| (value(at / element) >> (8 * (at % element)).min(56)) as u8).collect();
    }
    let mut out = Vec::with_capacity(size + 64);
    let mut state = 0x9E37_79B9_u32;
    while out.len() < size {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (top, low) = ((state >> 24) as usize, (state & 0xFFFF) as usize);
        if kind == 1 || out.len() < 8 {
            out.push(top as u8);
        } else if top < 96 {
            out.extend(vec![low as u8; top % 40 + 1]);
        } else {
            let distance = low % out.len() + 1;
            for _ in 0..=top % 64 {
                out.push(out[out.len() - distance]);
            }
        }
    }
    out.truncate(size);
    out
}

fn cases() -> Vec<Case> {
    let mut bytes = vec![0; 1 << 20];
    let len = Decompressor::new().zlib_decompress(CHUNKS, &mut bytes).unwrap();
    let mut bytes = Bytes(&bytes[..len]);
    let mut cases = Vec::new();
    while let Some([len]) = bytes.array() {
        let name = String::from_utf8(bytes.take(len.into()).unwrap().to_vec()).unwrap();
        let [count] = bytes.array().unwrap();
        let filters = (0..count)
            .map(|_| {
                let id = u16::from_le_bytes(bytes.array().unwrap());
                let [count] = bytes.array().unwrap();
                let values = (0..count).map(|_| u32::from_le_bytes(bytes.array().unwrap())).collect();
                Filter { id, name: None, optional: true, values }
            })
            .collect();
        let mask = u32::from_le_bytes(bytes.array().unwrap());
        let element = bytes.u32_le().unwrap();
        let [kind] = bytes.array().unwrap();
        let decoded = content(kind, element, bytes.u32_le().unwrap());
        let len = bytes.u32_le().unwrap();
        let raw = bytes.take(len).unwrap().to_vec();
        cases.push(Case { name, filters, mask, element, raw, decoded });
    }
    cases
}

#[test]
fn chunks_of_the_library_decode_bit_by_bit() {
    let mut decoder = Decoder::default();
    let cases = cases();
    assert!(cases.len() > 300);
    for (number, case) in cases.iter().enumerate() {
        let size = case.decoded.len();
        let what = format!("case {number}, `{}`, {size} bytes of {}, mask {}", case.name, case.element, case.mask);
        for wanted in [0..size, 0..0, size / 3..size / 2, size - 1..size, size / 5..size + 9, size + 1..size + 2] {
            let mut pieces: Vec<Range<usize>> = Vec::new();
            let result = case.decode(&mut decoder, &case.raw, wanted.clone(), &mut |at, piece| {
                assert_eq!(at % case.element, 0, "{what}");
                assert!(piece == &case.decoded[at..at + piece.len()], "{what}: the piece at {at}");
                pieces.push(at..at + piece.len());
            });
            result.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start), "{what}");
            let wanted = wanted.start..wanted.end.min(size);
            if !wanted.is_empty() {
                let covered = pieces[0].start..pieces[pieces.len() - 1].end;
                assert!(covered.start <= wanted.start && covered.end >= wanted.end, "{what}: {covered:?} of {wanted:?}");
            }
        }
    }
    let blocks = cases.iter().filter(|case| case.filters[0].id == BLOSC && case.mask == 0 && case.decoded.len() >= 1024);
    assert!(blocks.count() > 50);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_chunks_do_no_harm(case in any::<prop::sample::Index>(), places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5), cut in proptest::option::weighted(0.2, any::<prop::sample::Index>())) {
        thread_local! {
            static CASES: Vec<Case> = cases();
        }
        CASES.with(|cases| {
            let case = case.get(cases);
            let mut raw = case.raw.clone();
            for (place, byte) in places {
                // Headers are more worth damaging than data.
                let at = place.index(raw.len() * 2) % raw.len().min(if byte & 1 == 0 { 40 } else { usize::MAX });
                raw[at] = byte;
            }
            if let Some(cut) = cut {
                raw.truncate(cut.index(raw.len()));
            }
            let mut decoder = Decoder::default();
            let size = case.decoded.len();
            for wanted in [0..size, size / 2..size] {
                let mut end = 0;
                // An error or bytes within the chunk; which bytes is not to be known without a checksum.
                let _ = case.decode(&mut decoder, &raw, wanted, &mut |at, piece| {
                    assert!(at >= end && at % case.element == 0 && at + piece.len() <= size);
                    end = at + piece.len();
                });
            }
            assert!(decoder.bytes() <= 4 * size + 16_384, "{} bytes for a chunk of {size}", decoder.bytes());
        });
    }
}
