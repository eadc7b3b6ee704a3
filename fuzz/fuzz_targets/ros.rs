//! Packets of any encoding in bags and MCAP files that are well-formed around them, or not: everything that can be asked
//! of them agrees.
#![no_main]

use evlib::{OpenOptions, TimeSource};
use evlib_fuzz::{Scratch, agree, open};
use libfuzzer_sys::fuzz_target;

const ENCODINGS: [&str; 6] = ["evt3", "mono", "trigger", "libcaer", "libcaer_cmp", "other"];

/// Bytes after their length.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

/// An `EventPacket` as ROS 1 serialises it.
fn packet(encoding: &str, seq: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = [0_u32, 1000, 500, 0, 480, 640].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    out.extend(seq.to_le_bytes());
    out.extend(1_000_000_123_u64.to_le_bytes());
    out.extend(sized(encoding.as_bytes()));
    out.push(0);
    out.extend(sized(payload));
    out
}

fn mcap_record(opcode: u8, content: &[u8]) -> Vec<u8> {
    [&[opcode][..], &(content.len() as u64).to_le_bytes(), content].concat()
}

/// An MCAP file that was not closed.
fn mcap(messages: &[Vec<u8>], chunked: bool) -> Vec<u8> {
    let schema = [&1_u16.to_le_bytes()[..], &sized(b"event_camera_msgs/EventPacket"), &sized(b""), &sized(b"")].concat();
    let channel = [&[0, 0, 1, 0][..], &sized(b"/events"), &sized(b"ros1"), &sized(b"")].concat();
    let mut records = [mcap_record(3, &schema), mcap_record(4, &channel)].concat();
    for (number, message) in messages.iter().enumerate() {
        let times = (number as u64).to_le_bytes();
        records.extend(mcap_record(5, &[&[0; 6][..], &times, &times, message].concat()));
    }
    if chunked {
        let size = (records.len() as u64).to_le_bytes();
        records = mcap_record(6, &[&[0; 16][..], &size, &[0; 4], &sized(b""), &size, &records].concat());
    }
    [b"\x89MCAP0\r\n".as_slice(), &mcap_record(1, &[sized(b""), sized(b"")].concat()), &records].concat()
}

fn bag_record(fields: &[&[u8]], data: &[u8]) -> Vec<u8> {
    let header: Vec<u8> = fields.iter().flat_map(|field| sized(field)).collect();
    [sized(&header), sized(data)].concat()
}

/// A bag that was not closed.
fn bag(messages: &[Vec<u8>], chunked: bool) -> Vec<u8> {
    let about: Vec<u8> = [&b"type=event_camera_msgs/EventPacket"[..], b"md5sum=*"].iter().flat_map(|field| sized(field)).collect();
    let mut records = bag_record(&[b"op=\x07", b"conn=\0\0\0\0", b"topic=/events"], &about);
    for message in messages {
        records.extend(bag_record(&[b"op=\x02", b"conn=\0\0\0\0", b"time=\0\0\0\0\0\0\0\0"], message));
    }
    if chunked {
        let size = [&b"size="[..], &(records.len() as u32).to_le_bytes()].concat();
        records = bag_record(&[b"op=\x05", b"compression=none", &size], &records);
    }
    let header = bag_record(&[b"op=\x03", b"index_pos=\0\0\0\0\0\0\0\0", b"conn_count=\0\0\0\0", b"chunk_count=\0\0\0\0"], b"");
    [b"#ROSBAG V2.0\n".as_slice(), &header, &records].concat()
}

fuzz_target!(|data: &[u8]| {
    let Some((how, content)) = data.split_first() else { return };
    let content = match how & 7 {
        0 => content.to_vec(),
        1 => [b"#ROSBAG V2.0\n".as_slice(), content].concat(),
        2 => [b"\x89MCAP0\r\n".as_slice(), content].concat(),
        3 => [b"SQLite format 3\0".as_slice(), content].concat(),
        container => {
            let Some((encoding, mut rest)) = content.split_first() else { return };
            let (mut messages, mut seq) = (Vec::new(), 0);
            while let [step, len, after @ ..] = rest {
                let (payload, after) = after.split_at(usize::from(*len).min(after.len()));
                // A gap now and then, and numbers that go back.
                seq = if *step == 255 { 0_u64 } else { seq + 1 + u64::from(*step >> 6) };
                let other = if *step & 31 == 31 { encoding + 1 } else { *encoding };
                messages.push(packet(ENCODINGS[usize::from(other) % ENCODINGS.len()], seq, payload));
                rest = after;
            }
            let chunked = container & 1 == 1;
            if container & 2 == 0 { mcap(&messages, chunked) } else { bag(&messages, chunked) }
        }
    };
    let file = Scratch::new("ros", &content);
    let mut options = OpenOptions::default();
    if how & 0x40 != 0 {
        options = options.with_time_source(TimeSource::Message);
    }
    let Some(recording) = open(file.path(), &options) else { return };
    agree(&recording, content.len(), how & 0x80 != 0);
});
