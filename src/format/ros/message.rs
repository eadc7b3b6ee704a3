//! ROS messages without ROS: how they are serialised, what their definitions say, and the heads of those with events.
//!
//! | type | fields |
//! |---|---|
//! | `dvs_msgs/EventArray`, `prophesee_event_msgs/EventArray` | header, u32 height, u32 width, events: u16 x, u16 y, time, bool |
//! | `event_camera_msgs/EventPacket`, `event_array_msgs/EventArray` | header, u32 height, u32 width, u64 seq, u64 `time_base`, string encoding, bool `is_bigendian`, u8 events[] |
//!
//! ROS 1 packs little-endian fields. ROS 2 uses CDR: four bytes say the byte order, and every number is aligned to its
//! size, counted from behind them; strings end with NUL, and a header has no number.

/// How a message is serialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serial {
    Ros1,
    Cdr,
}

/// What a type of message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An event a record.
    Array,
    /// Events in a packet of some encoding.
    Packet,
    Image,
    Imu,
    Other,
}

/// How the events of a message are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Evt3,
    Mono,
    Trigger,
    Libcaer,
    LibcaerCmp,
    /// Records of 13 bytes.
    Packed,
    /// Records of CDR, 16 bytes apart.
    Aligned {
        big: bool,
    },
}

impl Encoding {
    fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"evt3" => Some(Self::Evt3),
            b"mono" => Some(Self::Mono),
            b"trigger" => Some(Self::Trigger),
            b"libcaer" => Some(Self::Libcaer),
            b"libcaer_cmp" => Some(Self::LibcaerCmp),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Evt3 => "evt3",
            Self::Mono => "mono",
            Self::Trigger => "trigger",
            Self::Libcaer => "libcaer",
            Self::LibcaerCmp => "libcaer_cmp",
            Self::Packed | Self::Aligned { .. } => "records",
        }
    }

    /// Bytes of a word, whose order `is_bigendian` is about.
    const fn word(self) -> usize {
        match self {
            Self::Evt3 | Self::LibcaerCmp => 2,
            Self::Libcaer => 4,
            Self::Mono | Self::Trigger => 8,
            Self::Packed | Self::Aligned { .. } => 1,
        }
    }
}

/// The encoding of a message, or the name of one that is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Coding {
    Known(Encoding),
    Unknown(String),
}

/// What stands in front of the events of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Time of the header, in nanoseconds.
    pub(crate) stamp_ns: i64,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Number of the packet.
    pub(crate) seq: Option<u64>,
    /// Nanoseconds that the times of a packet count from.
    pub(crate) base_ns: i64,
    pub(crate) coding: Coding,
    /// Where the events start in the message, the bytes that they take, and how many of those are there.
    pub(crate) start: usize,
    pub(crate) claimed: u64,
    pub(crate) len: usize,
    /// Bytes of the words whose order has to be turned; 1 for none.
    pub(crate) swap: usize,
}

/// Fields, one after the other.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    /// CDR: aligned, strings with NUL, and byte order by the first bytes.
    cdr: bool,
    big: bool,
}

/// Bytes in front of a CDR message that say its byte order.
const ENCAPSULATION: usize = 4;

impl<'a> Fields<'a> {
    fn new(serial: Serial, data: &'a [u8]) -> Option<Self> {
        match serial {
            Serial::Ros1 => Some(Self { bytes: data, at: 0, cdr: false, big: false }),
            Serial::Cdr => {
                let (kind, bytes) = data.split_at_checked(ENCAPSULATION)?;
                match kind {
                    [0, order @ (0 | 1), ..] => Some(Self { bytes, at: 0, cdr: true, big: *order == 0 }),
                    _ => None,
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.cdr {
            self.at = self.at.next_multiple_of(N);
        }
        let taken = self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(&mut self) -> Option<u64> {
        let bytes = self.take()?;
        Some(if self.big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let text = self.bytes.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(if self.cdr { text.strip_suffix(&[0]).unwrap_or(text) } else { text })
    }

    /// A time in nanoseconds: seconds are unsigned in ROS 1, signed in ROS 2.
    fn time(&mut self) -> Option<i64> {
        let (seconds, nanoseconds) = (self.u32()?, self.u32()?);
        let seconds = if self.cdr { i64::from(seconds.cast_signed()) } else { i64::from(seconds) };
        Some(seconds * 1_000_000_000 + i64::from(nanoseconds))
    }
}

impl Head {
    /// The head of a message with events; `None` where the message ends inside it, or is of another serialisation.
    pub(crate) fn parse(kind: Kind, serial: Serial, data: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(serial, data)?;
        if !fields.cdr {
            fields.u32()?;
        }
        let stamp_ns = fields.time()?;
        fields.text()?;
        let (height, width) = (fields.u32()?, fields.u32()?);
        let (mut seq, mut base_ns, mut swap) = (None, 0, 1);
        let (coding, claimed) = if kind == Kind::Packet {
            seq = Some(fields.u64()?);
            base_ns = fields.u64()?.cast_signed();
            let name = fields.text()?;
            let big = fields.u8()? != 0;
            let coding = match Encoding::from_name(name) {
                Some(encoding) => {
                    swap = if big { encoding.word() } else { 1 };
                    Coding::Known(encoding)
                }
                None => Coding::Unknown(String::from_utf8_lossy(name).chars().take(40).collect()),
            };
            (coding, u64::from(fields.u32()?))
        } else {
            let count = u64::from(fields.u32()?);
            match serial {
                Serial::Ros1 => (Coding::Known(Encoding::Packed), 13 * count),
                Serial::Cdr => (Coding::Known(Encoding::Aligned { big: fields.big }), (16 * count).saturating_sub(3)),
            }
        };
        let start = fields.at + if fields.cdr { ENCAPSULATION } else { 0 };
        let there = data.len().saturating_sub(start);
        let len = usize::try_from(claimed).unwrap_or(usize::MAX).min(there);
        Some(Self { stamp_ns, width, height, seq, base_ns, coding, start, claimed, len, swap })
    }
}

impl Kind {
    /// What messages of a type have, by its definition where that can be read, else by its name.
    pub(crate) fn of(type_name: &str, definition: &str) -> Self {
        let base = type_name.rsplit('/').next().unwrap_or_default();
        let package = type_name.split('/').next().unwrap_or_default();
        match base {
            "Image" | "CompressedImage" if package == "sensor_msgs" => return Self::Image,
            "Imu" if package == "sensor_msgs" => return Self::Imu,
            _ => {}
        }
        if let Some(fields) = fields(definition) {
            let own: Vec<_> = fields.iter().map(|(kind, name)| (kind.rsplit('/').next().unwrap_or_default(), name.as_str())).collect();
            return match own.as_slice() {
                [("Header", _), ("uint32", "height"), ("uint32", "width"), ("Event[]", "events")] => Self::Array,
                [
                    ("Header", _),
                    ("uint32", "height"),
                    ("uint32", "width"),
                    ("uint64", "seq"),
                    ("uint64", "time_base"),
                    ("string", "encoding"),
                    ("bool", "is_bigendian"),
                    ("uint8[]", "events"),
                ] => Self::Packet,
                _ => Self::Other,
            };
        }
        match (package, base) {
            ("event_camera_msgs", "EventPacket") | ("event_array_msgs", "EventArray") => Self::Packet,
            (_, "EventArray") => Self::Array,
            _ => Self::Other,
        }
    }
}

/// The fields of a message definition (`.msg`), constants left out; `None` for other languages.
///
/// The definitions of the types that it uses follow behind lines of `=`: the event's has to be x, y, time, polarity.
fn fields(definition: &str) -> Option<Vec<(String, String)>> {
    let mut sections = definition.split("\n====").map(|section| {
        // The rest of the line of `=`, and `MSG: package/Type`.
        let body = section.split_once("MSG:").map_or(section, |(_, body)| body);
        let skip = usize::from(body.len() < section.len());
        let name = body.lines().next().unwrap_or_default().trim().to_owned();
        let fields: Vec<(String, String)> = body
            .lines()
            .skip(skip)
            .map(|line| line.split('#').next().unwrap_or_default())
            .filter(|line| !line.contains('='))
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.to_owned(), words.next()?.to_owned()))
            })
            .collect();
        (name, fields)
    });
    let (_, fields) = sections.next()?;
    let is_msg = fields.first().is_some_and(|(kind, _)| kind.rsplit('/').next() == Some("Header"));
    let event = sections.find(|(name, _)| name.rsplit('/').next() == Some("Event"));
    let standard = event.is_none_or(|(_, fields)| {
        let fields: Vec<_> = fields.iter().map(|(kind, name)| (kind.as_str(), name.as_str())).collect();
        matches!(
            fields.as_slice(),
            [
                ("uint16", "x"),
                ("uint16", "y"),
                ("time" | "builtin_interfaces/Time" | "builtin_interfaces/msg/Time", _),
                ("bool", "polarity")
            ]
        )
    });
    if is_msg && !standard {
        return Some(Vec::new());
    }
    is_msg.then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_known_by_their_fields() {
        let array = "std_msgs/Header header\nuint32 height # rows\nuint32 width\n\nEvent[] events\n";
        let event = "uint16 x\nuint16 y\ntime ts\nbool polarity\n";
        let packet = "uint8 CD = 1\nstd_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\nstring encoding\nbool is_bigendian\nuint8[] events\n";
        let with = |event: &str| format!("{array}{}\nMSG: other_msgs/Event\n{event}", "=".repeat(80));
        assert_eq!(Kind::of("other_msgs/EventArray", &with(event)), Kind::Array);
        assert_eq!(Kind::of("other_msgs/Whatever", &with(event)), Kind::Array);
        assert_eq!(Kind::of("dvs_msgs/EventArray", &with("uint16 y\nuint16 x\ntime ts\nbool polarity\n")), Kind::Other);
        assert_eq!(Kind::of("other_msgs/Packet", packet), Kind::Packet);
        assert_eq!(Kind::of("event_array_msgs/EventArray", packet), Kind::Packet);
        assert_eq!(Kind::of("event_array_msgs/msg/EventArray", ""), Kind::Packet);
        assert_eq!(Kind::of("dvs_msgs/msg/EventArray", ""), Kind::Array);
        assert_eq!(Kind::of("event_camera_msgs/msg/EventPacket", "module event_camera_msgs {\n"), Kind::Packet);
        assert_eq!(Kind::of("sensor_msgs/msg/Imu", "std_msgs/Header header\n"), Kind::Imu);
        assert_eq!(Kind::of("std_msgs/String", "string data"), Kind::Other);
    }
}
