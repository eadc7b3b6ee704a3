//! Records over literal bytes, and over the starts of them.

use proptest::prelude::*;

use super::{bag, message};
use crate::mcap;
use crate::problem::{ProblemCode, Problems};

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

fn mcap_record(opcode: u8, content: &[u8]) -> Vec<u8> {
    [&[opcode][..], &(content.len() as u64).to_le_bytes(), content].concat()
}

/// A summary with a channel and an index of a chunk, and the end of the file behind it.
fn summary(crc: bool) -> Vec<u8> {
    let channel = [&[7, 0, 1, 0][..], &sized(b"/events"), &sized(b"cdr"), &sized(b"")].concat();
    let mut index: Vec<u8> = [10_u64, 20, 33, 44].iter().flat_map(|number| number.to_le_bytes()).collect();
    index.extend(sized(&[7, 0, 1, 1, 0, 0, 0, 0, 0, 0]));
    index.extend([0; 8]);
    index.extend(sized(b"zstd"));
    index.extend([0; 16]);
    let mut bytes = [mcap_record(mcap::op::CHANNEL, &channel), mcap_record(mcap::op::CHUNK_INDEX, &index)].concat();
    bytes.push(mcap::op::FOOTER);
    bytes.extend(20_u64.to_le_bytes());
    bytes.extend(500_u64.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    let sum = if crc { mcap::crc32(&bytes) } else { 0 };
    bytes.extend(sum.to_le_bytes());
    bytes.extend(mcap::MAGIC);
    bytes
}

#[test]
fn a_summary_of_mcap() {
    let bytes = summary(true);
    let tail = &bytes[bytes.len() - mcap::TAIL..];
    let footer = mcap::Footer::from_tail(tail).expect("a footer");
    assert_eq!(footer.summary_start, 500);
    assert!(footer.holds(&bytes));
    let records: Vec<_> = mcap::Records::new(&bytes).collect();
    assert_eq!(records.iter().map(|record| record.opcode).collect::<Vec<_>>(), [4, 8, 2]);
    let channel = mcap::Channel::parse(records[0].content).expect("a channel");
    assert_eq!((channel.id, channel.schema, channel.topic.as_str(), channel.message_encoding.as_str()), (7, 1, "/events", "cdr"));
    let index = mcap::ChunkIndex::parse(records[1].content).expect("an index");
    assert_eq!((index.first_ns, index.last_ns, index.offset, index.len, index.channels), (10, 20, 33, 44, vec![7]));
    assert_eq!(index.compression, "zstd");

    let mut damaged = bytes.clone();
    damaged[3] ^= 1;
    assert!(!footer.holds(&damaged));
    let unchecked = summary(false);
    let footer = mcap::Footer::from_tail(&unchecked[unchecked.len() - mcap::TAIL..]).expect("a footer");
    assert!(footer.holds(&damaged));
    assert_eq!(mcap::Footer::from_tail(&bytes[bytes.len() - mcap::TAIL + 1..]), None);
}

#[test]
fn records_of_mcap_end_where_the_bytes_do() {
    let bytes = summary(false);
    let all: Vec<_> = mcap::Records::new(&bytes).collect();
    for len in 0..bytes.len() {
        let mut records = mcap::Records::new(&bytes[..len]);
        let found = records.by_ref().count();
        assert!(all[..found] == mcap::Records::new(&bytes[..len]).collect::<Vec<_>>());
        let end = all.get(found).map_or(records.consumed(), |next| next.at);
        assert_eq!(records.consumed(), end, "{len}");
    }
}

#[test]
fn a_chunk_of_mcap_that_is_cut() {
    let mut content: Vec<u8> = [1_u64, 2, 99].iter().flat_map(|number| number.to_le_bytes()).collect();
    content.extend(5_u32.to_le_bytes());
    content.extend(sized(b"lz4"));
    content.extend(6_u64.to_le_bytes());
    content.extend(b"packed");
    let chunk = mcap::Chunk::parse(&content).expect("a chunk");
    assert_eq!((chunk.size, chunk.crc, chunk.compression.as_str(), chunk.records, chunk.stored), (99, 5, "lz4", &b"packed"[..], 6));
    let chunk = mcap::Chunk::parse(&content[..content.len() - 4]).expect("a chunk");
    assert_eq!((chunk.records, chunk.stored), (&b"pa"[..], 6));
    assert_eq!(mcap::Chunk::parse(&content[..40]), None);
}

fn bag_record(fields: &[&[u8]], data: &[u8]) -> Vec<u8> {
    let header: Vec<u8> = fields.iter().flat_map(|field| sized(field)).collect();
    [sized(&header), sized(data)].concat()
}

#[test]
fn records_of_a_bag() {
    let about = [sized(b"type=a_msgs/B"), sized(b"message_definition=int8 x = 3")].concat();
    let bytes = bag_record(&[b"topic=/a=b", b"op=\x07", b"conn=\x05\0\0\0"], &about);
    let record = bag::Record::parse(&bytes).expect("a record");
    assert_eq!((record.op, record.len()), (bag::op::CONNECTION, bytes.len() as u64));
    assert_eq!(bag::Record::head_len(&bytes), Some(record.data_at));
    let connection = bag::Connection::parse(&record, record.data(&bytes).expect("data")).expect("a connection");
    assert_eq!((connection.id, connection.topic.as_str(), connection.type_name.as_str()), (5, "/a=b", "a_msgs/B"));
    assert_eq!(connection.definition, "int8 x = 3");

    let times: Vec<u8> = [3_u32, 7, 0, 2, 9, 1].iter().flat_map(|number| number.to_le_bytes()).collect();
    let bytes = bag_record(&[b"op=\x04", b"conn=\x05\0\0\0"], &times);
    let record = bag::Record::parse(&bytes).expect("a record");
    let index = bag::Index::parse(&record, record.data(&bytes).expect("data")).expect("an index");
    assert_eq!(index, bag::Index { connection: 5, messages: 2, range_ns: Some((2_000_000_009, 3_000_000_007)) });
    assert!(bag::Record::parse(&bytes[..9]).is_none());
    assert!(bag::Record::parse(&bag_record(&[b"no field"], b"")).is_none());
}

#[test]
fn offsets_of_problems_are_moved() {
    let mut problems = Problems::default();
    problems.add(ProblemCode::OutOfBounds, 2, 0, 10, || "2 outside 3x4 at byte 10".to_owned());
    problems.add(ProblemCode::LostSync, 5, 10, 40, || "10 bytes (5 words) skipped at byte 40: time words out of step".to_owned());
    let moved = problems.moved(|at| at + 1000);
    let shown: Vec<_> = moved.iter().map(|problem| (problem.count, problem.first_offset, problem.examples[0].as_str())).collect();
    let skipped = "10 bytes (5 words) skipped at byte 1040: time words out of step";
    assert_eq!(shown, [(2, 1010, "2 outside 3x4 at byte 1010"), (5, 1040, skipped)]);
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(bytes: Vec<u8>, at in 0_usize..40) {
        for record in mcap::Records::new(&bytes) {
            prop_assert!(record.at + mcap::PREFIX + record.content.len() <= bytes.len());
        }
        let _any = (mcap::Header::parse(&bytes), mcap::Schema::parse(&bytes), mcap::Statistics::parse(&bytes), mcap::Footer::from_tail(&bytes));
        let _any = (mcap::Chunk::parse(&bytes), mcap::ChunkIndex::parse(&bytes), mcap::MessageIndex::parse(&bytes));
        let mut likely = bag_record(&[b"op=\x05", b"compression=none", b"size=\0\0\0\0"], &bytes);
        if let Some(byte) = likely.get_mut(at) {
            *byte ^= 0x41;
        }
        if let Some(record) = bag::Record::parse(&likely) {
            let _any = (record.data(&likely), bag::ChunkInfo::parse(&record, &bytes), bag::Index::parse(&record, &bytes));
        }
        for serial in [message::Serial::Ros1, message::Serial::Cdr] {
            for kind in [message::Kind::Array, message::Kind::Packet] {
                let mut cdr = vec![0, 1, 0, 0];
                cdr.extend(&bytes);
                if let Some(head) = message::Head::parse(kind, serial, &cdr) {
                    prop_assert!(head.start + head.len <= cdr.len() && head.len as u64 <= head.claimed);
                }
            }
        }
    }
}
