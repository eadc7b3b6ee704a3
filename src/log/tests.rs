//! The format, recovery and the queue.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;

/// A folder that is removed.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("evlib-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn log(&self) -> Log {
        Log::new(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn options() -> WriterOptions {
    WriterOptions::new("bytes", 1)
}

fn payload(number: u64) -> Vec<u8> {
    (0..(number * 37 % 301)).map(|at| (at * 7 + number) as u8).collect()
}

fn write(log: &Log, channel: &str, numbers: std::ops::Range<u64>) -> PathBuf {
    let writer = log.writer(channel, &options()).unwrap();
    for number in numbers {
        writer.write(&[&payload(number)], Stamp { log_time_ns: 1000 + number, sensor_time_ns: number }).unwrap();
    }
    writer.close().unwrap();
    writer.path().to_path_buf()
}

fn payloads(channel: &Channel) -> Vec<Vec<u8>> {
    channel.iter().map(|record| record.unwrap().payload.bytes().to_vec()).collect()
}

fn open(path: &Path) -> Channel {
    Log::new(path).channel("c", Verify::All).unwrap()
}

#[test]
fn records_come_back_aligned_and_in_order() {
    let folder = Folder::new();
    let path = write(&folder.log(), "c", 0..10_000);
    let channel = folder.log().channel("c", Verify::First).unwrap();
    assert_eq!(channel.len(), 10_000);
    for (number, record) in (0..).zip(&channel) {
        let record = record.unwrap();
        assert_eq!((record.sequence, record.log_time_ns, record.sensor_time_ns), (number, 1000 + number, number));
        assert_eq!(record.payload.bytes(), payload(number));
        assert_eq!(record.payload.bytes().as_ptr().addr() % 64, 0);
    }
    assert_eq!(channel.recovery(), &Recovery::default());
    assert!(channel.files()[0].closed);
    assert_eq!(channel.verify(), Vec::<String>::new());
    let times = |start, stop| -> Vec<u64> { channel.range(start, stop).map(|record| record.unwrap().log_time_ns).collect() };
    assert_eq!(times(5000, Some(5003)), [5000, 5001, 5002]);
    assert_eq!(times(10_998, None), [10_998, 10_999]);
    assert_eq!(times(0, Some(1000)), [0; 0]);

    // Without its end it is read by scanning, to the same records.
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let scanned = folder.log().channel("c", Verify::First).unwrap();
    assert_eq!(payloads(&scanned), payloads(&channel));
    assert_eq!(scanned.recovery().records, 0);
}

#[test]
fn the_mcap_crate_reads_a_closed_file() {
    let folder = Folder::new();
    let path = write(&folder.log(), "a/b", 0..5000);
    let bytes = fs::read(path).unwrap();
    let mut messages = 0_u64;
    for message in mcap::MessageStream::new(&bytes).unwrap() {
        let message = message.unwrap();
        assert_eq!(message.data.as_ref(), payload(messages));
        assert_eq!((message.log_time, message.publish_time), (1000 + messages, messages));
        assert_eq!((message.channel.topic.as_str(), message.channel.message_encoding.as_str()), ("a/b", "evlib.bytes"));
        messages += 1;
    }
    assert_eq!(messages, 5000);
    let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
    let stats = summary.stats.unwrap();
    assert_eq!((stats.message_count, stats.message_start_time, stats.message_end_time), (5000, 1000, 5999));
    // The CRC of the whole data section.
    let end = bytes.len() - 8 - 29;
    let summary_start = u64::from_le_bytes(bytes[end + 9..end + 17].try_into().unwrap()) as usize;
    let data_end = &bytes[summary_start - 13..summary_start];
    let mut crc = libdeflater::Crc::new();
    crc.update(&bytes[..summary_start - 13]);
    assert_eq!(u32::from_le_bytes(data_end[9..].try_into().unwrap()), crc.sum());
}

#[test]
fn a_cut_at_every_byte_loses_only_what_is_cut() {
    let folder = Folder::new();
    let path = write(&folder.log(), "c", 0..12);
    let bytes = fs::read(&path).unwrap();
    let channel = open(&folder.0);
    let ends: Vec<u64> = (0..12)
        .map(|at| {
            let record = channel.get(at).unwrap();
            (record.payload.bytes().as_ptr().addr() - channel.get(0).unwrap().payload.bytes().as_ptr().addr()) as u64
                + record.payload.bytes().len() as u64
        })
        .collect();
    let first = bytes.windows(8).position(|window| window == [0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(first.is_some());
    // Place of the first payload in the file.
    let start = {
        let pattern = payload(1);
        let at = bytes.windows(pattern.len()).position(|window| window == pattern).unwrap() as u64;
        at - (ends[1] - pattern.len() as u64)
    };
    let all: Vec<Vec<u8>> = (0..12).map(payload).collect();
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let channel = open(&folder.0);
        let whole = ends.iter().filter(|end| start + **end <= cut as u64).count();
        assert_eq!(payloads(&channel), all[..whole], "cut at {cut}");
        if cut < bytes.len() {
            assert!(channel.recovery().reason.is_some(), "cut at {cut}");
        }
    }
}

#[test]
fn a_flip_of_any_bit_gives_nothing_wrong() {
    let folder = Folder::new();
    let path = write(&folder.log(), "c", 0..5);
    let bytes = fs::read(&path).unwrap();
    let all: Vec<Vec<u8>> = (0..5).map(payload).collect();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        let channel = open(&folder.0);
        let found = payloads(&channel);
        // At most one record is lost, none is changed, and the order stays.
        assert!(found.len() >= all.len() - 1, "bit {bit} of byte {}: {} records", bit % 8, bit / 8);
        let mut rest = all.iter();
        assert!(found.iter().all(|payload| rest.any(|known| known == payload)), "bit {bit}");
        for record in &channel {
            let record = record.unwrap();
            assert_eq!(record.log_time_ns, 1000 + record.sequence, "bit {bit}");
        }
        assert_eq!(channel.recovery().records, 5 - found.len() as u64, "bit {bit}");
        // Every flip is seen by a look at everything: by our checksums or by MCAP's.
        assert!(!channel.verify().is_empty(), "bit {bit} of byte {}", bit / 8);
    }
}

#[test]
fn random_damage_is_survived() {
    let folder = Folder::new();
    let path = write(&folder.log(), "c", 0..40);
    let bytes = fs::read(&path).unwrap();
    let all: Vec<Vec<u8>> = (0..40).map(payload).collect();
    let mut seed = 1_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for round in 0..400 {
        let mut damaged = bytes.clone();
        for _ in 0..=round % 4 {
            let (at, len) = (random(damaged.len()), random(200) + 1);
            let end = damaged.len().min(at + len);
            match round % 3 {
                0 => damaged[at..end].fill(random(256) as u8),
                1 => drop(damaged.drain(at..end)),
                _ => {
                    let copy = damaged[at..end].to_vec();
                    let to = random(damaged.len());
                    damaged.splice(to..to, copy);
                }
            }
        }
        fs::write(&path, &damaged).unwrap();
        let Ok(channel) = folder.log().channel("c", Verify::All) else { continue };
        let mut rest = all.iter();
        for found in payloads(&channel) {
            assert!(rest.any(|known| *known == found), "round {round}");
        }
    }
}

#[test]
fn a_log_inside_a_log_is_not_taken_apart() {
    let folder = Folder::new();
    let inner = fs::read(write(&folder.log(), "inner", 0..20)).unwrap();
    let writer = folder.log().writer("c", &options()).unwrap();
    for _ in 0..3 {
        writer.write(&[&inner], Stamp::at(1)).unwrap();
    }
    writer.close().unwrap();
    let bytes = fs::read(writer.path()).unwrap();
    // The second head is damaged: the scan passes the copies of heads in its payload.
    let mut damaged = bytes[..bytes.len() - 20].to_vec();
    let heads: Vec<usize> = memchr::memmem::find_iter(&bytes, b"evrh").collect();
    damaged[heads[21] + 10] ^= 1;
    fs::write(writer.path(), damaged).unwrap();
    let channel = open(&folder.0);
    assert_eq!(payloads(&channel), [inner.clone(), inner]);
    assert_eq!(channel.recovery().records, 1);
}

#[test]
fn one_writer_a_channel_and_a_file_a_session() {
    let folder = Folder::new();
    let log = folder.log();
    let first = log.writer("c", &options()).unwrap();
    let error = log.writer("c", &options()).unwrap_err();
    assert!(error.to_string().contains("has a writer already"), "{error}");
    first.write(&[b"1"], Stamp::at(1)).unwrap();
    drop(first);
    let before = fs::read(folder.0.join("c.000001.mcap")).unwrap();
    fs::write(folder.0.join("c.000001.mcap"), &before[..before.len() - 60]).unwrap();
    let second = log.writer("c", &options()).unwrap();
    second.write(&[b"2"], Stamp::at(2)).unwrap();
    assert!(second.path().ends_with("c.000002.mcap"));
    drop(second);
    let channel = log.channel("c", Verify::Head).unwrap();
    assert_eq!(payloads(&channel), [b"1", b"2"]);
    assert_eq!(fs::read(folder.0.join("c.000001.mcap")).unwrap(), before[..before.len() - 60]);
}

#[test]
fn the_queue_has_a_bound() {
    let folder = Folder::new();
    for policy in [Policy::Block, Policy::DropOldest, Policy::Error] {
        let options = options().with_policy(policy).with_queue_bytes(16 << 10);
        let writer = folder.log().writer("c", &options).unwrap();
        let mut refused = 0;
        for number in 0..5000_u64 {
            match writer.write(&[&number.to_le_bytes(), &[0; 1000]], Stamp::at(number)) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.kind(), crate::ErrorKind::QueueFull);
                    refused += 1;
                }
            }
            assert!(writer.counters().queued_bytes <= 16 << 10);
        }
        let counters = writer.close().unwrap();
        assert_eq!(counters.accepted + counters.rejected, 5000);
        assert_eq!(counters.rejected, refused);
        assert_eq!(counters.written + counters.dropped, counters.accepted);
        match policy {
            Policy::Block => assert_eq!(counters.written, 5000),
            Policy::DropOldest => assert!(counters.dropped > 0 && counters.rejected == 0, "{counters:?}"),
            Policy::Error => assert!(counters.rejected > 0 && counters.dropped == 0, "{counters:?}"),
        }
        let channel = folder.log().channel("c", Verify::All).unwrap();
        let file = channel.files().pop().unwrap();
        assert_eq!(file.records, counters.written);
        fs::remove_file(file.path).unwrap();
    }
}

#[test]
fn records_larger_than_the_queue_keep_their_place() {
    let folder = Folder::new();
    let writer = folder.log().writer("c", &options().with_queue_bytes(8 << 10)).unwrap();
    let large = vec![7; 100_000];
    let mut wanted = Vec::new();
    for number in 0..50_u64 {
        let item = if number % 5 == 3 { large.clone() } else { payload(number) };
        writer.write(&[&item], Stamp::at(number)).unwrap();
        wanted.push(item);
    }
    writer.close().unwrap();
    assert_eq!(payloads(&folder.log().channel("c", Verify::All).unwrap()), wanted);
}

#[test]
fn parts_are_aligned_where_asked() {
    let folder = Folder::new();
    for direct in [false, true] {
        let writer = folder.log().writer("c", &options().with_direct(direct)).unwrap();
        for len in 0..100 {
            writer.write_aligned(&[&vec![1; len], &[2; 33]], 1, Stamp::at(0)).unwrap();
        }
        writer.write_aligned(&[&[1; 5], &vec![2; 3 << 20]], 1, Stamp::at(0)).unwrap();
        assert!(writer.write_aligned(&[b"x"], 1, Stamp::at(0)).is_err());
        writer.close().unwrap();
        let channel = folder.log().channel("c", Verify::All).unwrap();
        for (record, len) in channel.iter().zip((0..100).chain([5])) {
            let record = record.unwrap();
            assert_eq!(record.payload.bytes()[len..].as_ptr().addr() % 64, 0);
            assert_eq!(record.payload.bytes()[..len], vec![1; len]);
        }
        assert_eq!(channel.len() % 101, 0);
        assert_eq!(channel.verify(), Vec::<String>::new());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn writing_past_the_cache_leaves_no_room_behind() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    let writer = folder.log().writer("c", &options().with_direct(true)).unwrap();
    for _ in 0..40 {
        writer.write(&[&vec![3; 100_000]], Stamp::at(0)).unwrap();
    }
    writer.close().unwrap();
    let metadata = fs::metadata(writer.path()).unwrap();
    assert!(metadata.blocks() * 512 < metadata.len() + (1 << 20), "{} blocks of {} bytes", metadata.blocks(), metadata.len());
    assert_eq!(folder.log().channel("c", Verify::All).unwrap().len(), 40);
}

#[test]
fn a_durable_write_is_there_when_it_returns() {
    let folder = Folder::new();
    let writer = folder.log().writer("c", &options().with_durable(true)).unwrap();
    for number in 0..5 {
        writer.write(&[&payload(number)], Stamp::at(number)).unwrap();
        let channel = folder.log().channel("c", Verify::All).unwrap();
        assert_eq!(channel.len(), number + 1);
        // Nothing is lost of a file that is being written.
        assert_eq!(channel.recovery().records, 0);
    }
    assert!(folder.log().writer("d", &options().with_durable(true).with_policy(Policy::DropOldest)).is_err());
}

#[test]
fn times_that_go_back_are_found() {
    let folder = Folder::new();
    let writer = folder.log().writer("c", &options()).unwrap();
    let times: Vec<u64> = (0..10_000).map(|at| if at < 6000 { at } else { at - 5000 }).collect();
    for time in &times {
        writer.write(&[b"x"], Stamp::at(*time)).unwrap();
    }
    writer.close().unwrap();
    let channel = folder.log().channel("c", Verify::Head).unwrap();
    let found: Vec<u64> = channel.range(999, Some(1002)).map(|record| record.unwrap().log_time_ns).collect();
    assert_eq!(found, [999, 1000, 1001, 1000, 1001]);
}

#[test]
fn several_producers_write_one_channel() {
    let folder = Folder::new();
    let writer = Arc::new(folder.log().writer("c", &options().with_queue_bytes(64 << 10)).unwrap());
    std::thread::scope(|scope| {
        for producer in 0..4_u64 {
            let writer = &writer;
            scope.spawn(move || {
                for number in 0..500_u64 {
                    let body = vec![producer as u8; if number % 100 == 0 { 80_000 } else { 50 }];
                    writer.write(&[&producer.to_le_bytes(), &number.to_le_bytes(), &body], Stamp::at(number)).unwrap();
                }
            });
        }
    });
    assert_eq!(writer.close().unwrap().written, 2000);
    let mut next = [0; 4];
    for payload in payloads(&folder.log().channel("c", Verify::All).unwrap()) {
        let producer = payload[0] as usize;
        assert_eq!(u64::from_le_bytes(payload[8..16].try_into().unwrap()), next[producer]);
        assert!(payload[16..].iter().all(|byte| *byte == payload[0]));
        next[producer] += 1;
    }
    assert_eq!(next, [500; 4]);
}

#[test]
fn a_tail_follows_through_files() {
    let folder = Folder::new();
    write(&folder.log(), "c", 0..3);
    let mut all = folder.log().tail("c", true).unwrap();
    let mut new = folder.log().tail("c", false).unwrap();
    assert!(new.next_within(Some(Duration::from_millis(5))).unwrap().is_none());
    let writing = folder.log();
    let thread = std::thread::spawn(move || {
        write(&writing, "c", 3..6);
        std::thread::sleep(Duration::from_millis(50));
        write(&writing, "c", 6..9);
    });
    let wait = Some(Duration::from_secs(20));
    for number in 0..9 {
        assert_eq!(all.next_within(wait).unwrap().unwrap().payload.bytes(), payload(number));
    }
    for number in 3..9 {
        assert_eq!(new.next_within(wait).unwrap().unwrap().payload.bytes(), payload(number));
    }
    thread.join().unwrap();
    assert_eq!(all.lost_bytes(), 0);
}

#[test]
fn names_stay_in_the_folder() {
    let folder = Folder::new();
    let long = "x/".repeat(150);
    let names = ["../x", "a/b", "nul\0", "ü ☃", &long, "."];
    for name in names {
        write(&folder.log(), name, 0..1);
    }
    let mut found = folder.log().channels().unwrap();
    let mut wanted: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2 * names.len());
    assert!(folder.log().channel("y", Verify::Head).unwrap_err().to_string().contains("a/b"));
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    let folder = Folder::new();
    let path = write(&folder.log(), "c", 0..1);
    let mut bytes = fs::read(&path).unwrap();
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, &record::SESSION_MAGIC).collect();
    for at in places {
        bytes[at + 16] = 2;
        let len = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().unwrap()) as usize;
        let crc = record::crc32c(&bytes[at + 12..at + 16 + len]);
        bytes[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    let error = folder.log().channel("c", Verify::Head).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
}

/// A file of a log up to its first record, its number, and where it ends.
fn beginning(folder: &Folder) -> (PathBuf, Vec<u8>, u64) {
    let path = write(&folder.log(), "c", 0..1);
    let mut bytes = fs::read(&path).unwrap();
    let head = memchr::memmem::find(&bytes, b"evrh").unwrap() - 13;
    bytes.truncate(head);
    let (info, _) = recovery::find_session(&bytes).unwrap().unwrap();
    (path, bytes, info.session)
}

/// A head that claims a payload of so many bytes.
fn head(session: u64, offset: u64, sequence: u64, payload_len: u64) -> Vec<u8> {
    let head = record::Head {
        session,
        offset,
        sequence,
        log_time_ns: sequence,
        sensor_time_ns: 0,
        payload_len,
        payload_crc: record::crc32c(&[]),
        data_offset: 0,
    };
    let mut out = vec![0; (head.payload_offset() - offset) as usize];
    head.write(&mut out);
    out
}

#[test]
fn lengths_that_a_file_claims_take_no_time() {
    let folder = Folder::new();
    let (path, mut bytes, session) = beginning(&folder);
    let len = 12 << 20;
    let mut records = 0;
    // After each record one that claims the rest of the file, in turn of every kind that is passed over by its length.
    while bytes.len() < len {
        bytes.extend(head(session, bytes.len() as u64, records, 0));
        let rest = (len - bytes.len().min(len)) as u64;
        match records % 3 {
            0 => bytes.extend([&[record::op::INDEX][..], &rest.to_le_bytes(), &[1; 40]].concat()),
            1 => bytes.extend([&[record::op::DIRECTORY][..], &rest.to_le_bytes(), &[1; 60]].concat()),
            _ => bytes.extend([&[record::op::SCHEMA][..], &rest.to_le_bytes(), &[1; 8]].concat()),
        }
        records += 1;
    }
    bytes.extend([1; 100]);
    fs::write(&path, &bytes).unwrap();
    let start = std::time::Instant::now();
    let channel = open(&folder.0);
    assert_eq!(channel.len(), records);
    assert!(channel.recovery().bytes > 0);
    // Each of them looked at to its end would be half a terabyte.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_wrong_length_hides_no_record_behind_it() {
    let folder = Folder::new();
    let (path, start, session) = beginning(&folder);
    for opcode in [record::op::INDEX, record::op::DIRECTORY, record::op::PADDING, record::op::SCHEMA, record::op::CHANNEL] {
        for claimed in [0, 150, 300, 1 << 14, 1 << 20, u64::MAX] {
            let mut bytes = start.clone();
            bytes.extend(head(session, bytes.len() as u64, 0, 0));
            bytes.extend([&[opcode][..], &claimed.to_le_bytes(), &[0; 60]].concat());
            for sequence in [1, 2] {
                bytes.extend(head(session, bytes.len() as u64, sequence, 0));
            }
            fs::write(&path, &bytes).unwrap();
            let channel = open(&folder.0);
            assert_eq!(channel.len(), 3, "opcode {opcode:02x}, length {claimed}");
            assert_eq!(channel.recovery().records, 0, "opcode {opcode:02x}, length {claimed}");
            let mut tail = folder.log().tail("c", true).unwrap();
            for sequence in 0..3 {
                assert_eq!(tail.poll().unwrap().map(|record| record.sequence), Some(sequence), "opcode {opcode:02x}, length {claimed}");
            }
        }
    }
}

#[test]
fn records_that_overlap_are_damaged() {
    let folder = Folder::new();
    let (path, mut bytes, session) = beginning(&folder);
    // Heads one after the other, the payload of each of which is all that comes after it; and an index of them.
    let (records, len) = (20_000_u64, 4_u64 << 20);
    let mut entries = Vec::new();
    for sequence in 0..records {
        let offset = bytes.len() as u64;
        let start = record::Head::parse(&head(session, offset, sequence, 0), offset, session).unwrap().payload_offset();
        entries.push((offset, sequence));
        bytes.extend(head(session, offset, sequence, len - start));
    }
    bytes.resize(len as usize, 0);
    let mut directory = record::Directory { ordered: true, ..record::Directory::default() };
    for block in entries.chunks(record::BLOCK) {
        let offset = bytes.len() as u64;
        record::push_index(&mut bytes, session, offset, directory.records, block);
        directory.blocks.push((offset, 0, records));
        directory.records += block.len() as u64;
    }
    let offset = bytes.len() as u64;
    directory.push(&mut bytes, session, offset);
    record::push_record(&mut bytes, record::op::DATA_END, |out| out.extend([0; 4]));
    let summary = bytes.len() as u64;
    record::push_record(&mut bytes, record::op::STATISTICS, |out| out.extend([0; 46]));
    record::push_record(&mut bytes, record::op::FOOTER, |out| {
        out.extend(summary.to_le_bytes());
        out.extend([0; 12]);
    });
    bytes.extend(record::MAGIC);
    fs::write(&path, &bytes).unwrap();
    let start = std::time::Instant::now();
    let channel = folder.log().channel("c", Verify::Head).unwrap();
    assert_eq!((channel.len(), channel.recovery().reason.is_some()), (records, false));
    assert_eq!(channel.verify().iter().filter(|text| text.contains("is damaged")).count() as u64, records);
    let channel = open(&folder.0);
    assert_eq!((channel.len(), channel.recovery().records), (0, records));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_log_inside_another_file_is_no_log() {
    let folder = Folder::new();
    let inner = fs::read(write(&folder.log(), "inner", 0..20)).unwrap();
    let path = folder.0.join("packed.zip");
    fs::write(&path, [b"PK\x03\x04".as_slice(), &[0; 40], &inner].concat()).unwrap();
    let error = Log::new(&path).channels().unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Format);
    assert!(error.to_string().contains("zip") && error.to_string().contains("unpack it first"), "{error}");
    assert!(repair(&path, folder.0.join("repaired")).is_err());

    // As the message of somebody else's file it is a message.
    let path = folder.0.join("foreign.mcap");
    let mut writer = mcap::WriteOptions::new().compression(None).create(std::io::BufWriter::new(fs::File::create(&path).unwrap())).unwrap();
    let id = writer.add_channel(0, "/files", "bytes", &std::collections::BTreeMap::new()).unwrap();
    let header = mcap::records::MessageHeader { channel_id: id, sequence: 0, log_time: 1, publish_time: 1 };
    writer.write_to_known_channel(&header, &inner).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let log = Log::new(&path);
    assert_eq!(log.channels().unwrap(), ["/files"]);
    assert_eq!(log.channel("/files", Verify::Head).unwrap().get(0).unwrap().payload.bytes(), inner);
}

#[test]
fn an_index_tells_the_times_of_a_file() {
    let folder = Folder::new();
    let writer = folder.log().writer("c", &options()).unwrap();
    for number in 0..10_000_u64 {
        writer.write(&[], Stamp::at(if number == 7000 { 3 } else { 100 + number })).unwrap();
    }
    writer.close().unwrap();
    assert_eq!(folder.log().channel("c", Verify::Head).unwrap().files()[0].times_ns, Some((3, 10_099)));
}

#[test]
fn what_a_file_says_of_itself_is_looked_for_with_a_bound() {
    let mut file = Vec::new();
    while file.len() < 1 << 20 {
        file.extend([&record::SESSION_MAGIC[..], &[0; 4], &(1_u32 << 30).to_le_bytes()].concat());
    }
    let claimed = record::SESSION_LIMIT as u32;
    file.splice(12..16, claimed.to_le_bytes());
    file.resize(48 << 20, 1);
    let start = std::time::Instant::now();
    assert_eq!(recovery::find_session(&file), Ok(None));
    // Summed up as they claim, these would be three terabytes.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
