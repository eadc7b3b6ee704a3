//! The ASCII header of RAW and DAT files.
//!
//! Lines of `% key value`; a line belongs to the header only if it starts with exactly the two bytes `% `. The line
//! `% end` ends it; older files have none, and the header ends at the first line that does not start so.

use crate::error::{Error, Result};
use crate::schema::Geometry;

/// Longest line that is taken for a header line where there is no `% end`.
const LONGEST_LINE: usize = 1024;

/// Header fields and where the payload starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Keys in order of first appearance with their last values, words separated by one space.
    pub(crate) fields: Vec<(String, String)>,
    /// Byte after the header.
    pub(crate) end: usize,
    /// Whether the bytes ended before the header did.
    pub(crate) unfinished: bool,
}

impl Header {
    /// Parses the header at the start of `head`; without one, there are no fields and `end` is 0.
    pub(crate) fn parse(head: &[u8]) -> Self {
        let lenient = Self::lines(head, false);
        if lenient.fields.iter().any(|(key, _)| key == "end") {
            let mut header = lenient;
            header.fields.retain(|(key, _)| key != "end");
            return header;
        }
        // Payload bytes may look like the start of a line: where no `% end` says otherwise, a line must be text.
        Self::lines(head, true)
    }

    fn lines(head: &[u8], strict: bool) -> Self {
        let mut header = Self::default();
        while let Some(rest) = head.get(header.end..).filter(|rest| rest.starts_with(b"% ")) {
            let Some(len) = rest.iter().position(|byte| *byte == b'\n') else {
                header.unfinished = true;
                break;
            };
            let line = rest.get(..len).unwrap_or_default();
            let text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\r');
            if strict && (len > LONGEST_LINE || !line.iter().all(text)) {
                break;
            }
            header.end += len + 1;
            let line = String::from_utf8_lossy(line);
            let mut words = line.split_ascii_whitespace().skip(1);
            let Some(key) = words.next() else { continue };
            let value = words.collect::<Vec<_>>().join(" ");
            header.set(key, value);
            if key == "end" {
                break;
            }
        }
        header
    }

    fn set(&mut self, key: &str, value: String) {
        match self.fields.iter_mut().find(|(name, _)| name == key) {
            Some(field) => field.1 = value,
            None => self.fields.push((key.to_owned(), value)),
        }
    }

    /// The value of `key`; an empty one says nothing.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The name in `format`, without its options.
    pub(crate) fn format_name(&self) -> Option<&str> {
        self.get("format").map(|value| value.split(';').next().unwrap_or_default().trim()).filter(|name| !name.is_empty())
    }

    /// The value of an option of `format`.
    pub(crate) fn format_option(&self, name: &str) -> Option<&str> {
        let options = self.get("format")?.split(';').skip(1);
        options.filter_map(|option| option.split_once('=')).find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    }

    /// The sensor's number in the vendor's list.
    pub(crate) fn system_id(&self) -> Option<u32> {
        self.get("system_ID").and_then(|value| value.parse().ok())
    }

    /// Whether camera and driver are, or default to, the vendor's own.
    pub(crate) fn is_prophesee(&self) -> bool {
        ["camera_integrator_name", "plugin_integrator_name", "integrator_name"]
            .into_iter()
            .filter_map(|key| self.get(key))
            .all(|name| name.eq_ignore_ascii_case("prophesee"))
    }

    /// The sensor geometry that the header states in so many words.
    pub(crate) fn stated_geometry(&self) -> Result<Option<Geometry>> {
        let first = |keys: [&str; 2]| keys.into_iter().find_map(|key| self.get(key));
        let geometry = self.get("geometry").map(|value| match value.split_once(['x', 'X']) {
            Some((width, height)) => (Some(width), Some(height)),
            None => (Some(value), None),
        });
        let stated = [
            (self.format_option("width"), self.format_option("height"), "format"),
            (geometry.and_then(|pair| pair.0), geometry.and_then(|pair| pair.1), "geometry"),
            (first(["Width", "width"]), first(["Height", "height"]), "Width, Height"),
        ];
        let mut found: Option<(Geometry, &str)> = None;
        for (width, height, key) in stated {
            if width.is_none() && height.is_none() {
                continue;
            }
            let numbers = width.and_then(number).zip(height.and_then(number));
            let Some(parsed) = numbers.and_then(|(width, height)| Geometry::new(width, height).ok()) else {
                let values: Vec<_> = [width, height].into_iter().flatten().map(|value| format!("`{value}`")).collect();
                return Err(Error::format(format!("header field `{key}` is not a sensor geometry"))
                    .expecting("width and height, two numbers from 1 to 32768")
                    .but_found(values.join(" and "))
                    .hint("pass `geometry=(width, height)` to say what it is"));
            };
            match found {
                Some((other, name)) if other != parsed => {
                    return Err(Error::format(format!("header fields `{name}` and `{key}` disagree about the sensor geometry"))
                        .expecting(other.to_string())
                        .but_found(parsed.to_string())
                        .hint("pass `geometry=(width, height)` to decide"));
                }
                Some(_) => {}
                None => found = Some((parsed, key)),
            }
        }
        Ok(found.map(|(geometry, _)| geometry))
    }
}

/// A decimal number, or a hexadecimal one with `0x`.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// What the vendor's list says of a sensor: name, encoding where the header names none, geometry.
pub(crate) struct System {
    pub(crate) sensor: &'static str,
    pub(crate) encoding: Option<&'static str>,
    pub(crate) geometry: Option<(u16, u16)>,
}

/// The sensor that a header without a known `system_ID` names in words: which field does, and what it is.
pub(crate) fn sensor(header: &Header) -> Option<(&'static str, System)> {
    ["sensor_generation", "generation", "sensor_name", "plugin_name"].into_iter().find_map(|key| {
        let value = header.get(key)?.to_ascii_lowercase();
        let version = |digit: char| key.ends_with("generation") && value.starts_with(digit);
        let (sensor, encoding, geometry) = if value.contains("gen3") || version('3') {
            ("Gen3", Some("EVT2"), (640, 480))
        } else if value.contains("gen4") || value.contains("imx636") || version('4') {
            ("Gen4", Some("EVT3"), (1280, 720))
        } else if value.contains("genx320") {
            ("GenX320", None, (320, 320))
        } else {
            return None;
        };
        Some((key, System { sensor, encoding, geometry: Some(geometry) }))
    })
}

/// The vendor's list of systems by `system_ID`.
pub(crate) fn system(id: u32) -> Option<System> {
    const VGA: Option<(u16, u16)> = Some((640, 480));
    const HD: Option<(u16, u16)> = Some((1280, 720));
    let (sensor, encoding, geometry) = match id {
        0x15 | 0x17 | 0x97 | 0x19 | 0x99 | 0x1D | 0x21 | 0xA1 => ("Gen3.0", Some("EVT2"), VGA),
        0x1C | 0x23 | 0x22 | 0xA2 | 0x29 => ("Gen3.1", Some("EVT2"), VGA),
        0x28 => ("Gen3.1", Some("EVT3"), VGA),
        0x1A | 0x1F => ("Gen4.0", Some("EVT2"), HD),
        0x1E | 0x2E => ("Gen4.0", Some("EVT3"), HD),
        0x27 => ("Gen4.1", Some("EVT2"), HD),
        0x30 => ("Gen4.1", Some("EVT3"), HD),
        0x31 | 0x32 => ("IMX636", Some("EVT3"), HD),
        0x34 => ("IMX637", None, Some((640, 512))),
        0x35 => ("IMX646", None, HD),
        0x36 => ("IMX647", None, Some((640, 512))),
        0x37 => ("Saphir", None, None),
        0x3A => ("RDK2", None, HD),
        0x3B | 0x40 => ("GenX320", None, Some((320, 320))),
        0x41 => ("EVK3D", None, None),
        0x42 => ("EVK2 ESP", None, None),
        _ => return None,
    };
    Some(System { sensor, encoding, geometry })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_end() {
        let file = b"% evt 3.0\r\n% format EVT3;height=720;width=0x500\n% note  two   words\n% end\n\x64\x80";
        let header = Header::parse(file);
        assert_eq!(header.end, file.len() - 2);
        assert_eq!(header.get("evt"), Some("3.0"));
        assert_eq!(header.get("note"), Some("two words"));
        assert_eq!(header.get("end"), None);
        assert_eq!(header.format_name(), Some("EVT3"));
        assert_eq!(header.stated_geometry().unwrap().unwrap().to_string(), "1280x720");
    }

    #[test]
    fn payload_that_starts_like_a_line_is_payload() {
        let header = Header::parse(b"% evt 2.0\n% \x80\x01\x02\n");
        assert_eq!(header.end, 10);
        assert_eq!(header.fields.len(), 1);
    }

    #[test]
    fn a_lone_percent_ends_the_header() {
        assert_eq!(Header::parse(b"% evt 2.0\n%\x00\x00\x80").end, 10);
        assert_eq!(Header::parse(b"%\x00\x00\x80").end, 0);
    }

    #[test]
    fn disagreeing_geometries_are_an_error() {
        let header = Header::parse(b"% geometry 640x480\n% format EVT2;width=1280;height=720\n% end\n");
        assert!(header.stated_geometry().unwrap_err().to_string().contains("disagree"));
    }
}
