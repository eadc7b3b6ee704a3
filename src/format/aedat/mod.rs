//! AEDAT 1.0, 2.0, 3.0, 3.1 and 4.0, of iniVation and jAER: identification and opening.

use std::sync::Arc;

use super::{Confidence, Format, Identity, Opened, text};
use crate::error::{Error, ErrorKind, Result};
use crate::reader::{Reader, SegmentReader};
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::schema::Geometry;
use crate::source::Source;

pub(crate) mod codec;
mod flatbuffer;
mod header;
mod packets;
mod records;
#[cfg(test)]
mod tests;
mod v3;
mod v4;
pub(crate) mod writer;

use header::{Header, Layout, has_other_layout, sensor};
use packets::{PacketReader, Side};
use records::Records;
use v3::V3;
use v4::{Described, Preamble, V4};

/// First line of jAER's files before they had versions.
const FIRST_COMMENT: &[u8] = b"# This is a raw AE data";

/// Whether a file is AEDAT by its first bytes, or by its name where they can be.
pub(crate) fn names(head: &[u8], source: &Source) -> bool {
    if head.starts_with(header::MAGIC) {
        return true;
    }
    match source.extension().as_str() {
        "aedat" => head.first() == Some(&b'#') || looks_like_version_1(head),
        // Text and Prophesee's files have this name too.
        "dat" => head.starts_with(FIRST_COMMENT) || (looks_like_version_1(head) && !head.starts_with(b"% ") && !text::is_text(head)),
        _ => false,
    }
}

/// Whether bytes without a header are records of version 1.0: times that go ahead by small steps.
fn looks_like_version_1(head: &[u8]) -> bool {
    let times = head.as_chunks::<6>().0.iter().map(|[_, _, a, b, c, d]| u32::from_be_bytes([*a, *b, *c, *d]));
    let times: Vec<_> = times.take(4096).collect();
    let near = times.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) < 1 << 24).count();
    times.len() >= 8 && near * 20 >= (times.len() - 1) * 19 && times.first() != times.last()
}

/// Identifies and opens a file.
pub(crate) fn open(source: Source, head: &[u8], options: &OpenOptions) -> Result<Opened> {
    options.refuse_array_options()?;
    options.refuse_text_options()?;
    let (format, confidence, reason) = if head.starts_with(v4::MAGIC) && options.format.is_none_or(|wanted| wanted == Format::Aedat4) {
        (Format::Aedat4, Confidence::Certain, "first line `#!AER-DAT4.0`".to_owned())
    } else {
        let version = version(head);
        let by_version = match version.as_deref() {
            Some("1.0") => Some(Format::Aedat1),
            Some("2.0") => Some(Format::Aedat2),
            Some("3.0" | "3.1") => Some(Format::Aedat3),
            _ => None,
        };
        match (options.format, by_version, &version) {
            (Some(wanted), found, _) => {
                let against = found.filter(|found| *found != wanted).map(|found| format!(", against the header's {found}"));
                (wanted, Confidence::Certain, format!("the caller says {wanted}{}", against.unwrap_or_default()))
            }
            (None, Some(found), _) => (found, Confidence::Certain, format!("first line `#!AER-DAT{}`", version.unwrap_or_default())),
            (None, None, Some(version)) if version == "4.0" => {
                return Err(Error::format("the first line is not that of AEDAT 4.0")
                    .expecting("`#!AER-DAT4.0` and CR LF")
                    .but_found("another end of the line")
                    .at(v4::MAGIC.len() as u64 - 2));
            }
            (None, None, Some(version)) => {
                return Err(Error::new(ErrorKind::Unsupported, "the header names a version of AEDAT that this library does not read")
                    .expecting("1.0, 2.0, 3.0, 3.1 or 4.0")
                    .but_found(format!("`{version}`")));
            }
            (None, None, None) => (
                Format::Aedat1,
                Confidence::Guess,
                format!("extension `.{}`, and records without a version line, which is version 1.0", source.extension()),
            ),
        }
    };
    let identity = Identity { format, confidence, reasons: vec![reason] };
    match format {
        Format::Aedat4 => open_4(source.whole()?, head, options, identity),
        Format::Aedat3 => open_3(source.whole()?, options, identity),
        _ => open_records(source, head, options, identity),
    }
}

/// What the first line says after `#!AER-DAT`.
fn version(head: &[u8]) -> Option<String> {
    let rest = head.strip_prefix(header::MAGIC)?;
    let line = rest.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    Some(String::from_utf8_lossy(line.get(..16).unwrap_or(line)).into_owned())
}

/// Opens version 1.0 or 2.0.
fn open_records(source: Source, head: &[u8], options: &OpenOptions, mut identity: Identity) -> Result<Opened> {
    let header = Header::read(&source)?;
    if let Some(tick) = header.tick.as_deref().filter(|tick| !matches!(*tick, "1 us" | "1us")) {
        return Err(Error::new(ErrorKind::Unsupported, "the times are not in microseconds")
            .expecting("`Timestamps tick is 1 us`")
            .but_found(format!("`{tick}`")));
    }
    let address = if identity.format == Format::Aedat1 { 2 } else { 4 };
    let (layout, sensor) = layout(&source, head, &header, address, options, &mut identity.reasons)?;
    let mut streams = vec![
        Stream::new("events", StreamKind::Events, identity.format.name(), None),
        Stream::new("triggers", StreamKind::Triggers, "external events", None),
    ];
    if layout == Layout::Davis {
        streams.push(Stream::new("frames", StreamKind::Frames, "APS samples", None));
        streams.push(Stream::new("imu", StreamKind::Imu, "IMU samples", None));
    }
    options.refuse_streams()?;
    let geometry = options.geometry.unwrap_or(sensor);
    let records = Records::new(header.end, address, layout, sensor, header.imu_scales()).within(geometry);
    let reader: Arc<dyn Reader> = Arc::new(SegmentReader::new(source, records));
    Ok(Opened { identity, geometry: Some(geometry), metadata: header.fields, streams, reader })
}

/// How addresses are laid out, and the size of the sensor that they count from the far end of.
fn layout(
    source: &Source,
    head: &[u8],
    header: &Header,
    address: usize,
    options: &OpenOptions,
    reasons: &mut Vec<String>,
) -> Result<(Layout, Geometry)> {
    let dvs128 = Geometry::new(128, 128)?;
    if address == 2 {
        reasons.push("addresses of 16 bits: DVS128".to_owned());
        return Ok((Layout::Dvs128, dvs128));
    }
    if let Some(chip) = header.get("AEChip") {
        if let Some((layout, geometry)) = sensor(chip) {
            reasons.push(format!("header field `AEChip` is `{chip}`"));
            return Ok((layout, geometry));
        }
        if has_other_layout(chip) {
            return Err(Error::new(ErrorKind::Unsupported, "the header names a sensor whose addresses this library does not read")
                .expecting("a DVS128 or a DAVIS")
                .but_found(format!("`{chip}`")));
        }
        let Some(geometry) = options.geometry else {
            return Err(Error::new(ErrorKind::Unsupported, "the header names a sensor whose addresses this library does not know")
                .expecting("a DVS128 or a DAVIS")
                .but_found(format!("`{chip}`"))
                .hint("pass `geometry=(width, height)` to read the addresses as a DAVIS's, or (128, 128) for a DVS128's"));
        };
        let layout = if geometry == dvs128 { Layout::Dvs128 } else { Layout::Davis };
        reasons.push(format!("unknown sensor `{chip}`, read as {layout:?} for the caller's geometry"));
        return Ok((layout, geometry));
    }
    // Without a name the addresses tell DVS128 and DAVIS apart.
    let start = usize::try_from(header.end).unwrap_or(usize::MAX);
    let mut sample = vec![0; source.stretch(header.end, 1 << 16)?.0];
    if let Some(bytes) = head.get(start..start.saturating_add(sample.len())) {
        sample.copy_from_slice(bytes);
    } else {
        source.read_exact_at(&mut sample, header.end)?;
    }
    if sample.as_chunks::<8>().0.iter().all(|record| record.starts_with(&[0, 0])) {
        reasons.push("no `AEChip`, addresses of 16 bits: DVS128".to_owned());
        return Ok((Layout::Dvs128, dvs128));
    }
    let Some(geometry) = options.geometry else {
        return Err(Error::format("the header does not name the sensor, from whose far end addresses count")
            .expecting("a line `# AEChip: ...`")
            .but_found("addresses like those of a DAVIS")
            .hint("pass `geometry=(width, height)`: 240x180, 346x260 or 640x480"));
    };
    reasons.push("no `AEChip`, addresses of 32 bits: DAVIS".to_owned());
    Ok((Layout::Davis, geometry))
}

/// Opens version 3.0 or 3.1.
fn open_3(source: Source, options: &OpenOptions, mut identity: Identity) -> Result<Opened> {
    let header = Header::read(&source)?;
    if let Some(form) = header.get("Format").filter(|form| !form.eq_ignore_ascii_case("raw")) {
        return Err(Error::new(ErrorKind::Unsupported, "the packets are stored in a form that this library does not read")
            .expecting("`RAW`")
            .but_found(format!("`{form}`")));
    }
    let old = header.version.as_deref() == Some("3.0");
    let sources = header.sources();
    let several = sources.len() > 1;
    let cameras = if sources.is_empty() { vec![(0, String::new())] } else { sources };
    let mut streams = Vec::new();
    let mut sides = Vec::new();
    let mut candidates = Vec::new();
    for (index, (camera, name)) in cameras.iter().enumerate() {
        let detail = if name.is_empty() { identity.format.name().to_owned() } else { format!("source {camera}: {name}") };
        let kinds =
            [("events", StreamKind::Events), ("triggers", StreamKind::Triggers), ("frames", StreamKind::Frames), ("imu", StreamKind::Imu)];
        for (word, kind) in kinds {
            let stream = if several { format!("{word}_{camera}") } else { word.to_owned() };
            streams.push(Stream::new(stream.clone(), kind, detail.clone(), None));
            if kind == StreamKind::Events {
                candidates.push((stream, *camera, name.clone()));
            } else {
                let number = 4 * index as u16 + v3::number(kind);
                sides.push(Side { name: stream.clone(), alias: stream, kind, number, chosen: false });
            }
        }
    }
    let chosen = match &options.stream {
        Some(wanted) => Some(candidates.iter().position(|(stream, ..)| stream == wanted).ok_or_else(|| {
            let names: Vec<_> = candidates.iter().map(|(stream, ..)| format!("`{stream}`")).collect();
            Error::invalid("no such stream of events").expecting(format!("one of {}", names.join(", "))).but_found(format!("`{wanted}`"))
        })?),
        None if candidates.len() == 1 => Some(0),
        None => None,
    };
    let known = chosen.and_then(|chosen| candidates.get(chosen)).and_then(|(_, _, name)| sensor(name)).map(|(_, geometry)| geometry);
    let geometry = options.geometry.or(known);
    let undecided = if chosen.is_none() { candidates.iter().map(|(stream, ..)| stream.clone()).collect() } else { Vec::new() };
    if let Some(chosen) = chosen {
        for side in sides.iter_mut().skip(3 * chosen).take(3) {
            side.chosen = true;
        }
        if let Some((_, camera, name)) = candidates.get(chosen)
            && !name.is_empty()
        {
            identity.reasons.push(format!("source {camera} is `{name}`"));
        }
    }
    if old && geometry.is_none() && chosen.is_some() {
        return Err(Error::format("the header does not name the sensor, from whose bottom rows count in version 3.0")
            .expecting("a line `#Source 1: ...` with a known sensor")
            .but_found("none")
            .hint("pass `geometry=(width, height)`"));
    }
    let (width, height) = limits(geometry);
    let camera = chosen.filter(|_| several).and_then(|chosen| candidates.get(chosen)).map(|(_, camera, _)| *camera);
    let container = V3 {
        start: header.end,
        old,
        camera,
        cameras: if several { cameras.iter().map(|(camera, _)| *camera).collect() } else { Vec::new() },
        width,
        height,
    };
    let reader: Arc<dyn Reader> = Arc::new(PacketReader::new(source, container, sides, undecided));
    Ok(Opened { identity, geometry, metadata: header.fields, streams, reader })
}

/// Pixels that events may have.
fn limits(geometry: Option<Geometry>) -> (u16, u16) {
    geometry.map_or((Geometry::MAX, Geometry::MAX), |geometry| (geometry.width(), geometry.height()))
}

/// Names of the streams that a header of version 4.0 describes: what they record, with their number where that is not
/// enough.
fn stream_names(streams: &[Described]) -> Vec<String> {
    let plain: Vec<_> = streams
        .iter()
        .map(|stream| match (stream.output.is_empty(), stream.stream_kind()) {
            (false, _) => stream.output.clone(),
            (true, StreamKind::Other) => stream.kind.to_ascii_lowercase(),
            (true, kind) => kind.name().to_owned(),
        })
        .collect();
    let unique = |name: &String| plain.iter().filter(|other| *other == name).count() == 1;
    plain.iter().zip(streams).map(|(name, stream)| if unique(name) { name.clone() } else { format!("{name}_{}", stream.id) }).collect()
}

/// Opens version 4.0.
fn open_4(source: Source, head: &[u8], options: &OpenOptions, mut identity: Identity) -> Result<Opened> {
    if !head.starts_with(v4::MAGIC) {
        return Err(Error::format("not a file of AEDAT 4.0").expecting("the line `#!AER-DAT4.0`").but_found(super::looks_like(head)).at(0));
    }
    let mut preamble = Preamble::read(&source)?;
    let lacks_type = |stream: &Described| stream.kind.is_empty();
    let has_events = preamble.streams.iter().any(|stream| stream.stream_kind() == StreamKind::Events);
    if (!has_events || preamble.streams.iter().any(lacks_type)) && V4::discover(&source, &mut preamble)? {
        identity.reasons.push("streams that the header does not describe, by their packets".to_owned());
    }
    identity.reasons.push(format!("packets of {} streams, compression {}", preamble.streams.len(), preamble.codec.name()));
    let described = &preamble.streams;
    let names = stream_names(described);
    let events: Vec<usize> =
        (0..described.len()).filter(|at| described.get(*at).is_some_and(|it| it.stream_kind() == StreamKind::Events)).collect();
    let name = |at: usize| names.get(at).map_or("", String::as_str);
    let chosen = match &options.stream {
        Some(wanted) => {
            let by_name = events.iter().find(|at| name(**at) == wanted);
            let by_id = || events.iter().find(|at| described.get(**at).is_some_and(|stream| stream.id.to_string() == *wanted));
            let found = by_name.or_else(by_id).copied().ok_or_else(|| {
                let names: Vec<_> = events.iter().map(|at| format!("`{}`", name(*at))).collect();
                let names = if names.is_empty() { "none".to_owned() } else { format!("one of {}", names.join(", ")) };
                Error::invalid("no such stream of events").expecting(names).but_found(format!("`{wanted}`"))
            })?;
            Some(found)
        }
        None if events.len() == 1 => events.first().copied(),
        None => None,
    };
    let undecided = if chosen.is_none() { events.iter().map(|at| name(*at).to_owned()).collect() } else { Vec::new() };
    let streams = described.iter().zip(&names).map(|(stream, name)| {
        let mut detail = vec![format!("stream {}", stream.id), stream.kind.clone()];
        detail.extend(stream.geometry.map(|geometry| geometry.to_string()));
        detail.extend((!stream.source.is_empty()).then(|| stream.source.clone()));
        Stream::new(name.clone(), stream.stream_kind(), detail.join(", "), None)
    });
    let streams = streams.collect();
    let stream = chosen.and_then(|chosen| described.get(chosen));
    let camera = stream.map(|stream| stream.source.as_str()).filter(|source| !source.is_empty());
    let same_camera = |other: &Described| camera.is_some_and(|camera| other.source == camera);
    // Triggers that no camera names are everybody's.
    let named = |kind: StreamKind| described.iter().any(|other| other.stream_kind() == kind && same_camera(other));
    let sides = described
        .iter()
        .zip(&names)
        .enumerate()
        .filter(|(at, _)| Some(*at) != chosen)
        .map(|(at, (other, name))| Side {
            name: name.clone(),
            alias: other.id.to_string(),
            kind: other.stream_kind(),
            number: at as u16,
            chosen: !named(other.stream_kind()) || same_camera(other),
        })
        .collect();
    let sized =
        |kind: StreamKind| described.iter().find(|other| other.stream_kind() == kind && same_camera(other)).and_then(|it| it.geometry);
    let stated = stream.and_then(|stream| stream.geometry).or_else(|| sized(StreamKind::Frames));
    let geometry = options.geometry.or(stated);
    let (width, height) = limits(geometry);
    let jaer = stream.is_some_and(Described::is_jaer);
    let flip = if jaer {
        let rows = geometry.ok_or_else(|| {
            Error::format("the size of the sensor is not described, from whose bottom rows count in files of jAER")
                .hint("pass `geometry=(width, height)`")
        })?;
        identity.reasons.push("written by jAER: rows count from the bottom".to_owned());
        Some(rows.height())
    } else {
        None
    };
    let container = V4 {
        codec: preamble.codec,
        start: preamble.start,
        table: preamble.table,
        streams: described.iter().map(|stream| stream.id).collect(),
        events: chosen,
        width,
        height,
        flip,
        wraps: jaer,
    };
    let mut metadata = vec![("compression".to_owned(), preamble.codec.name().to_owned())];
    metadata.extend(preamble.attributes);
    let reader: Arc<dyn Reader> = Arc::new(PacketReader::new(source, container, sides, undecided));
    Ok(Opened { identity, geometry, metadata, streams, reader })
}
