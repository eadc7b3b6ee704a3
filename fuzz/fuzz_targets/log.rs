//! A log of arbitrary bytes is read, followed, merged, verified and repaired: what is found twice is the same, what was
//! checked is right, and codecs take or refuse any payload.
#![no_main]

use evlib::codec::{Bytes, Codec, Events, Json, NumpyArray};
use evlib::log::{Channel, Log, Merge, Payload, Record, Verify, repair};
use evlib::{ErrorKind, Recording, Result, Selection};
use evlib_fuzz::{Folder, checksums, rows};
use libfuzzer_sys::fuzz_target;

/// The value, or nothing for an error that says what is wrong with a file or that something is not there.
fn refused<T>(found: Result<T>) -> Option<T> {
    found
        .inspect_err(|error| {
            let known =
                matches!(error.kind(), ErrorKind::Format | ErrorKind::Truncated | ErrorKind::Unsupported | ErrorKind::InvalidArgument);
            let missing = error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
            assert!(known || missing, "{error}");
        })
        .ok()
}

/// Every codec takes or refuses these bytes; what it takes is the same once encoded again.
fn decode(payload: &Payload) {
    if let Some(events) = refused(Events::default().decode(payload)) {
        let again = Events::default().encode(&events).expect("all columns").parts.concat();
        let again = Events::default().decode(&Payload::from_vec(again)).expect("what was encoded just now");
        assert!(rows(&events).eq(rows(&again)));
    }
    if let Some(array) = refused(NumpyArray.decode(payload)) {
        assert_eq!(NumpyArray.encode(&array).expect("an array").parts.concat(), payload.bytes());
    }
    if let Some(text) = refused(Json.decode(payload)) {
        assert_eq!(text.as_bytes(), payload.bytes());
    }
    assert_eq!(Bytes.decode(payload).expect("any bytes").bytes(), payload.bytes());
    // Not Arrow: its decoder panics on some damage. The codec makes an error of that, but a fuzzer ends with any panic.
}

type Row = (u64, u64, u64, Vec<u8>);

fn row(record: &Record) -> Row {
    assert!(record.data_offset <= record.payload.bytes().len());
    (record.sequence, record.log_time_ns, record.sensor_time_ns, record.payload.bytes().to_vec())
}

fn read(channel: &Channel) -> Vec<Row> {
    let found: Vec<_> = channel.iter().filter_map(refused).map(|record| row(&record)).collect();
    assert!(found.len() as u64 <= channel.len());
    found
}

/// Reads one channel in every way; gives its records that are whole.
fn channel(log: &Log, name: &str) -> Option<Vec<Row>> {
    let head = refused(log.channel(name, Verify::Head))?;
    let all = refused(log.channel(name, Verify::All))?;
    let (any, first, whole) = (read(&head), read(&refused(log.channel(name, Verify::First))?), read(&all));
    assert_eq!(whole.len() as u64, all.len(), "everything was checked");
    assert_eq!(whole, first);
    let mut rest = any.iter();
    assert!(whole.iter().all(|record| rest.any(|found| found == record)));
    for record in &head {
        refused(record).iter().for_each(|record| decode(&record.payload));
    }
    let middle = any.get(any.len() / 2).map_or(0, |record| record.1);
    let parts = [head.range(0, Some(middle)).count(), head.range(middle, None).count()];
    assert_eq!(parts.iter().sum::<usize>() as u64, head.len());
    assert!(head.verify().iter().all(|wrong| !wrong.is_empty()));
    for file in head.files() {
        assert!(file.records <= head.len());
    }
    assert_eq!(Merge::new(vec![head, all]).filter_map(refused).count(), any.len() + whole.len());
    Some(whole)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, content)) = data.split_first() else { return };
    let mut content = content.to_vec();
    // Damage goes deeper where checksums do not tell.
    if first & 4 != 0 {
        checksums(&mut content, first & 8 != 0);
    }
    decode(&Payload::from_vec(content.clone()));

    let (folder, repaired) = (Folder::new("log"), Folder::new("repaired"));
    let name = ["c.000001.mcap", "c.000001.mcap", "any.mcap", "c.blog"][usize::from(first & 3)];
    let file = folder.write(name, &content);
    for log in [Log::new(folder.path()), Log::new(&file)] {
        for name in refused(log.channels()).unwrap_or_default() {
            channel(&log, &name);
        }
    }
    if let Some(recording) = refused(Recording::open(&file)) {
        refused(recording.read(&Selection::default()));
        refused(recording.problems());
    }
    if name != "c.000001.mcap" {
        return;
    }
    let log = Log::new(folder.path());
    let mut tail = log.tail("c", true).expect("a folder that can be read");
    let mut followed = 0;
    while let Some(Some(record)) = refused(tail.poll()) {
        row(&record);
        followed += 1;
        assert!(followed <= content.len(), "a record has more than a byte");
    }
    if let Some(repair) = refused(repair(&file, repaired.path())) {
        let channels = Log::new(repaired.path()).channels().expect("a log");
        let again = Log::new(repaired.path()).channel(&channels[0], Verify::All).expect("a whole log");
        assert_eq!(again.len(), repair.records);
        assert_eq!(again.verify(), Vec::<String>::new());
        let found = Log::new(&file).channel(&channels[0], Verify::All).expect("what was repaired");
        let payloads = |channel: &Channel| read(channel).into_iter().map(|record| record.3).collect::<Vec<_>>();
        assert_eq!(payloads(&again), payloads(&found));
    }
});
