//! The text header of AEDAT 1.0 to 3.1, and the sensors that it names.

use crate::error::{Error, Result};
use crate::schema::Geometry;
use crate::source::Source;

/// Longest line, and longest header.
const LINE: usize = 1 << 16;
const LONGEST: usize = 32 << 20;
/// Bytes read at a time.
const STEP: usize = 1 << 20;

/// Preferences that tell what the data mean.
const PREFERENCES: [&str; 2] = [ACCELERATION, ROTATION];
const ACCELERATION: &str = "ImuAccelScale";
const ROTATION: &str = "ImuGyroScale";

/// First bytes of every AEDAT file that says what it is.
pub(crate) const MAGIC: &[u8] = b"#!AER-DAT";

/// The lines before the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// What the first line says, as `2.0`; none in files of version 1.0 that have no such line.
    pub(crate) version: Option<String>,
    /// Lines of the form `key: value`, and the few of the preferences that jAER appends which matter to the data.
    pub(crate) fields: Vec<(String, String)>,
    /// What a step of the times is, where a line says it.
    pub(crate) tick: Option<String>,
    /// Byte at which the data start.
    pub(crate) end: u64,
}

impl Header {
    pub(crate) fn read(source: &Source) -> Result<Self> {
        let mut header = Self { version: None, fields: Vec::new(), tick: None, end: 0 };
        let mut bytes: Vec<u8> = Vec::new();
        let (mut at, mut read, mut ended) = (0_usize, 0_usize, false);
        let mut preferences = false;
        loop {
            // A line needs to be seen whole, or to be too long for one.
            let rest = bytes.get(at..).unwrap_or_default();
            if (rest.len() <= LINE && !rest.contains(&b'\n')) && !ended {
                let more;
                (more, ended) = source.stretch(read as u64, STEP)?;
                bytes.resize(read + more, 0);
                source.read_exact_at(bytes.get_mut(read..).unwrap_or_default(), read as u64)?;
                read += more;
                continue;
            }
            let Some(line) = line(rest) else {
                if read as u64 == source.len() && is_part_of_line(rest) {
                    return Err(Error::format("the header ends inside a line")
                        .expecting("an end of line")
                        .but_found("the end of the file")
                        .at(source.len()));
                }
                break;
            };
            if at > LONGEST {
                return Err(Error::format("the header does not end").expecting(format!("at most {LONGEST} bytes")).at(at as u64));
            }
            at += line.len() + 1;
            let text = String::from_utf8_lossy(line);
            let text = text.trim_start_matches('#').trim();
            match text {
                "End Of ASCII Header" | "!END-HEADER" => break,
                _ if text.starts_with("Start of Preferences") => preferences = true,
                _ if text.starts_with("End of Preferences") => preferences = false,
                _ if preferences || text.starts_with('<') => {
                    if let Some((key, value)) = preference(text).filter(|(key, _)| PREFERENCES.contains(key)) {
                        header.fields.push((key.to_owned(), value.to_owned()));
                    }
                }
                _ => {
                    if let Some(version) = text.strip_prefix("!AER-DAT") {
                        header.version.get_or_insert_with(|| version.to_owned());
                    } else if let Some(tick) = text.strip_prefix("Timestamps tick is ") {
                        header.tick.get_or_insert_with(|| tick.to_owned());
                    } else if let Some(date) = text.strip_prefix("created ") {
                        header.fields.push(("created".to_owned(), date.to_owned()));
                    } else if let Some((key, value)) = text.split_once(':').filter(|(key, _)| key.len() <= 64) {
                        header.fields.push((key.trim().to_owned(), value.trim().to_owned()));
                    }
                }
            }
        }
        header.end = at as u64;
        Ok(header)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Units of the IMU's values in a g and in a degree a second: of the full scales that the preferences name, or of
    /// the usual ones, ±4 g and ±500 °/s.
    pub(crate) fn imu_scales(&self) -> (f32, f32) {
        let full = |key: &str, prefix: &str| self.get(key)?.strip_prefix(prefix)?.parse::<u16>().ok();
        let acceleration = match full(ACCELERATION, "ImuAccelScaleG") {
            Some(g @ (2 | 4 | 8 | 16)) => 32768.0 / f32::from(g),
            _ => 8192.0,
        };
        let rotation = match full(ROTATION, "GyroFullScaleDegPerSec") {
            Some(250) => 131.0,
            Some(1000) => 32.8,
            Some(2000) => 16.4,
            _ => 65.5,
        };
        (acceleration, rotation)
    }

    /// The lines `Source <number>: <name>` of version 3, by number.
    pub(crate) fn sources(&self) -> Vec<(i16, String)> {
        let sources =
            self.fields.iter().filter_map(|(key, value)| Some((key.strip_prefix("Source ")?.trim().parse().ok()?, value.clone())));
        sources.collect()
    }
}

/// Key and value of a line `<entry key="..." value="..."/>`.
fn preference(text: &str) -> Option<(&str, &str)> {
    let (key, rest) = text.strip_prefix("<entry key=\"")?.split_once('"')?;
    Some((key, rest.strip_prefix(" value=\"")?.split_once('"')?.0))
}

/// The header line that `bytes` start with, without its LF; `None` where data start.
///
/// A first byte of data may be `#` too: a line is text, and not too long.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.first() != Some(&b'#') {
        return None;
    }
    let len = bytes.iter().take(LINE).position(|byte| *byte == b'\n')?;
    bytes.get(..len).filter(|line| line.iter().copied().all(is_text))
}

/// Whether the last bytes of a file are the start of a header line.
fn is_part_of_line(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'#') && bytes.len() <= LINE && bytes.iter().copied().all(is_text)
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\r' | 0x80..)
}

/// How the addresses of a sensor are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// 16 bits: polarity, x, y, external.
    Dvs128,
    /// 32 bits: y, x, polarity, and samples of the frame's pixels and of the IMU.
    Davis,
}

/// Whether the sensor of that name lays out its addresses like neither of these, as v2e does for large ones.
pub(crate) fn has_other_layout(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["dvs640", "dvs1280"].iter().any(|part| name.contains(part))
}

/// Layout and size of the sensor of that name.
pub(crate) fn sensor(name: &str) -> Option<(Layout, Geometry)> {
    const SENSORS: &[(&str, Layout, u32, u32)] = &[
        ("tmpdiff128", Layout::Dvs128, 128, 128),
        ("dvs128", Layout::Dvs128, 128, 128),
        ("davis128", Layout::Davis, 128, 128),
        ("davis208", Layout::Davis, 208, 192),
        ("davis240", Layout::Davis, 240, 180),
        ("davis346", Layout::Davis, 346, 260),
        ("davis640", Layout::Davis, 640, 480),
        ("davisrgb640", Layout::Davis, 640, 480),
        ("sbret10", Layout::Davis, 240, 180),
    ];
    let name = name.to_ascii_lowercase();
    let (_, layout, width, height) = SENSORS.iter().find(|(part, ..)| name.contains(part))?;
    Some((*layout, Geometry::new(*width, *height).ok()?))
}
