//! Compared with what libhdf5 says of files that it wrote; see `tests/rust/data/make_hdf5_meta.py`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::error::ErrorKind;

const FACTS: &str = include_str!("../../../../tests/rust/data/hdf5_meta/facts.txt");

/// A file that is deleted when it goes out of scope.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("evlib-hdf5-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn open(&self) -> Result<Box<dyn Metadata>> {
        open(Arc::new(Source::open(&self.0)?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn names() -> Vec<String> {
    let mut names: Vec<_> = FACTS.lines().filter_map(|line| line.strip_prefix("F|")?.split('|').next()).map(str::to_owned).collect();
    names.sort();
    names
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rust/data/hdf5_meta").join(format!("{name}.gz"));
    let packed = std::fs::read(path).unwrap();
    let len = u32::from_le_bytes(packed[packed.len() - 4..].try_into().unwrap());
    let mut bytes = vec![0; len as usize];
    libdeflater::Decompressor::new().gzip_decompress(&packed, &mut bytes).unwrap();
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn fnv(text: &str) -> String {
    let value = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |value, byte| (value ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{value:016x}")
}

fn joined<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn type_text(dtype: &Dtype) -> String {
    let order = |big| if big { '>' } else { '<' };
    let integer = |base: &Integer| format!("{}{}{}", if base.signed { 'i' } else { 'u' }, base.bytes, order(base.big_endian));
    match dtype {
        Dtype::Integer(base) => integer(base),
        Dtype::Enum { base, boolean } => format!("{}({})", if *boolean { 'b' } else { 'e' }, integer(base)),
        Dtype::Float { bytes, big_endian } => format!("f{bytes}{}", order(*big_endian)),
        Dtype::Compound { bytes, fields } => {
            let fields: Vec<_> =
                fields.iter().map(|field| format!("{}@{}:{}", field.name, field.offset, type_text(&field.dtype))).collect();
            format!("{{{bytes};{}}}", fields.join(";"))
        }
        Dtype::Array { shape, base } => format!("[{}]{}", joined(shape), type_text(base)),
        Dtype::Text { bytes } => format!("S{bytes}"),
        Dtype::VlenText { bytes } => format!("T{bytes}"),
        Dtype::Vlen { bytes, base } => format!("V{bytes}({})", type_text(base)),
        Dtype::Other { bytes, .. } => format!("?{bytes}"),
    }
}

fn storage_text(storage: &Storage) -> String {
    match storage {
        Storage::Absent => "absent".to_owned(),
        Storage::Compact(bytes) => format!("compact:{}", hex(bytes)),
        Storage::Contiguous { address, bytes } => format!("contiguous:{address}:{bytes}"),
        Storage::Chunked(chunks) => {
            let mut table = String::new();
            for Chunk { index, address, bytes, mask } in &chunks.list {
                write!(table, "{index},{address},{bytes},{mask};").unwrap();
            }
            format!("chunked:{}:{}:{}", joined(&chunks.shape), chunks.list.len(), fnv(&table))
        }
    }
}

fn value_text(value: &Value) -> String {
    let float = |value: &f64| format!("{:016x}", value.to_bits());
    match value {
        Value::Integer(value) => format!("i:{value}"),
        Value::Float(value) => format!("f:{}", float(value)),
        Value::Text(value) => format!("t:{value}"),
        Value::Integers(values) => format!("I:{}", joined(values)),
        Value::Floats(values) => format!("F:{}", joined(&values.iter().map(float).collect::<Vec<_>>())),
        Value::Texts(values) => format!("T:{}", joined(values)),
        Value::Other(_) => "?".to_owned(),
    }
}

#[test]
fn files_are_what_libhdf5_says() {
    let mut wrong = Vec::new();
    let mut file: Option<(String, Scratch, Box<dyn Metadata>)> = None;
    for fact in FACTS.lines() {
        let parts: Vec<_> = fact.split('|').collect();
        if let ["F", name, len] = parts[..] {
            let scratch = Scratch::new(name, &fixture(name));
            let metadata = scratch.open().unwrap();
            assert_eq!(metadata.announced_len().to_string(), len, "{name}");
            file = Some((name.to_owned(), scratch, metadata));
            continue;
        }
        let (name, _, metadata) = file.as_ref().unwrap();
        let found = match parts[..] {
            ["G", path, _] => metadata.list(path).map(|entries| {
                let letter = |kind| match kind {
                    Kind::Group => 'g',
                    Kind::Dataset => 'd',
                    Kind::Other => 'o',
                };
                let entries: Vec<_> = entries.iter().map(|entry| format!("{}={}", entry.name, letter(entry.kind))).collect();
                format!("G|{path}|{}", entries.join(","))
            }),
            ["A", path, key, _] => metadata.attributes(path).map(|attributes| {
                let value = attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value_text(value));
                format!("A|{path}|{key}|{}", value.unwrap_or_default())
            }),
            ["D", path, ..] => metadata.dataset(path).map(|dataset| {
                assert_eq!(metadata.kind(path), Some(Kind::Dataset));
                let filters: Vec<_> = dataset
                    .filters
                    .iter()
                    .map(|filter| format!("{}/{}/{}", filter.id, u8::from(filter.optional), joined(&filter.values)))
                    .collect();
                let fill = dataset.fill.as_deref().map_or("-".to_owned(), hex);
                let (shape, dtype, storage) = (joined(&dataset.shape), type_text(&dataset.dtype), storage_text(&dataset.storage));
                format!("D|{path}|{shape}|{dtype}|{}|{storage}|{fill}", filters.join(";"))
            }),
            _ => panic!("{fact}"),
        };
        let found = found.unwrap_or_else(|error| error.to_string());
        if found != fact {
            wrong.push(format!("{name}\n  libhdf5 {fact}\n  here    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn attributes_are_all_listed() {
    let scratch = Scratch::new("all-attributes", &fixture("v3.h5"));
    let names: Vec<_> = scratch.open().unwrap().attributes("/").unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["big", "fixed", "flag", "float", "floats", "huge", "link", "many", "nothing", "of_kind", "pair", "signed", "text", "width"]
    );
}

#[test]
fn paths_and_links() {
    let scratch = Scratch::new("paths", &fixture("v3.h5"));
    let file = scratch.open().unwrap();
    for (path, kind) in [
        ("", Some(Kind::Group)),
        ("/", Some(Kind::Group)),
        ("events/x", Some(Kind::Dataset)),
        ("//events/./x/", Some(Kind::Dataset)),
        ("/soft", Some(Kind::Dataset)),
        ("/group/up", Some(Kind::Dataset)),
        ("/twice", Some(Kind::Dataset)),
        ("/kind", Some(Kind::Other)),
        ("/loop", None),
        ("/dangling", None),
        ("/outside", None),
        ("/events/x/y", None),
        ("/event", None),
    ] {
        assert_eq!(file.kind(path), kind, "{path}");
    }
    assert_eq!(file.dataset("/twice").unwrap().shape, [10]);
    assert!(file.dataset("/outside").unwrap_err().to_string().contains("another file"));
    assert!(file.dataset("/loop").unwrap_err().to_string().contains("/loop: soft links go in circles"));
    assert_eq!(file.dataset("/events").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(file.list("/events/x").unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn what_is_not_read_says_so() {
    let scratch = Scratch::new("refused", &fixture("v3_refused.h5"));
    let file = scratch.open().unwrap();
    for path in ["/virtual", "/external"] {
        let error = file.dataset(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(path) && error.to_string().contains("other file"), "{error}");
    }
    assert_eq!(file.dataset("/good").unwrap().shape, [4]);
    let text = Scratch::new("text", b"no HDF5 file at all");
    assert_eq!(text.open().err().unwrap().kind(), ErrorKind::Format);
}

#[test]
fn a_lost_tail_is_counted() {
    let bytes = fixture("v3_index.h5");
    let scratch = Scratch::new("tail", &bytes);
    let file = scratch.open().unwrap();
    let Storage::Chunked(chunks) = file.dataset("/tree").unwrap().storage else { panic!("not chunked") };
    let last = chunks.list.iter().map(|chunk| chunk.address + u64::from(chunk.bytes)).max().unwrap();
    drop(scratch);
    let scratch = Scratch::new("tail", &bytes[..last as usize - 1]);
    let file = scratch.open().unwrap();
    assert_eq!(file.announced_len(), bytes.len() as u64);
    match file.dataset("/tree") {
        Ok(dataset) => assert!(matches!(dataset.storage, Storage::Chunked(Chunks { beyond: 1.., .. }))),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Truncated, "{error}"),
    }
}

#[test]
fn places_in_the_grid() {
    let chunks = Chunks {
        shape: vec![2, 3],
        grid: vec![4, 5],
        decoded: 6,
        list: [2, 7].map(|index| Chunk { index, address: 0, bytes: 1, mask: 0 }).to_vec(),
        beyond: 0,
    };
    assert_eq!(chunks.start(7), [2, 6]);
    assert_eq!((chunks.grid_len(), (chunks.list.len() as u64 == chunks.grid_len())), (20, false));
    assert_eq!((0..20).filter(|index| chunks.get(*index).is_some()).collect::<Vec<_>>(), [2, 7]);
}

/// Everything that can be asked of a file.
fn ask_all(file: &dyn Metadata) -> u64 {
    let mut asked = 0;
    let mut todo = vec!["/".to_owned()];
    let mut seen = std::collections::HashSet::new();
    while let Some(group) = todo.pop() {
        asked += u64::from(file.attributes(&group).is_ok());
        let Ok(entries) = file.list(&group) else { continue };
        // Groups of many members have many of the same.
        let few = if entries.len() > 19 { 3 } else { entries.len() };
        for entry in entries.into_iter().take(few) {
            let path = format!("{}/{}", group.trim_end_matches('/'), entry.name);
            asked += u64::from(file.attributes(&path).is_ok()) + u64::from(file.kind(&path).is_some());
            if let Ok(dataset) = file.dataset(&path) {
                asked += 1;
                if let Storage::Chunked(chunks) = &dataset.storage {
                    assert!(chunks.list.iter().all(|chunk| chunks.start(chunk.index).len() == dataset.shape.len()));
                }
            }
            if entry.kind == Kind::Group && seen.insert(entry.object) {
                todo.push(path);
            }
        }
    }
    asked
}

/// Sets right the checksums of the blocks that have one and whose length is known, so that damage gets past them.
fn repair_checksums(bytes: &mut [u8]) {
    let seal = |bytes: &mut [u8], start: usize, len: usize| {
        let block = bytes.get_mut(start..start.saturating_add(len));
        if let Some((body, sum)) = block.and_then(|block| block.split_at_mut_checked(len.saturating_sub(4))) {
            sum.copy_from_slice(&hdf5_reader::checksum::jenkins_lookup3(body).to_le_bytes());
        }
    };
    for start in 0..bytes.len().saturating_sub(8) {
        let lens = match &bytes[start..start + 4] {
            b"\x89HDF" if bytes[start + 8] >= 2 => vec![48],
            b"OHDR" => {
                let flags = bytes[start + 5];
                let prefix = 6 + if flags & 0x20 != 0 { 16 } else { 0 } + if flags & 0x10 != 0 { 4 } else { 0 };
                let width = 1 << (flags & 3);
                let size = bytes
                    .get(start + prefix..start + prefix + width.min(4))
                    .map_or(0, |size| size.iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte)));
                vec![prefix + width + size + 4]
            }
            b"BTHD" => vec![38],
            b"FRHP" => vec![146],
            b"FAHD" => vec![28],
            b"EAHD" => vec![72],
            _ => continue,
        };
        for len in lens {
            seal(bytes, start, len);
        }
    }
}

/// Numbers that look random and are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end.max(1) as u64) as usize
    }
}

/// Time on a processor, where the system tells it: other programs may keep a test waiting.
fn processor_time(since: Instant) -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|spent| spent.split(' ').next()?.parse().ok());
    spent.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

#[test]
fn damage_is_survived() {
    let rounds: usize = std::env::var("EVLIB_HDF5_MUTATIONS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(400);
    let mut numbers = Numbers(rounds as u64);
    let begun = Instant::now();
    let files: Vec<_> = names().iter().map(|name| (name.clone(), fixture(name))).collect();
    let (mut opened, mut asked, mut worst) = (0, 0, Duration::ZERO);
    for round in 0..rounds {
        let (name, sound) = &files[round % files.len()];
        let mut bytes = sound.clone();
        for _ in 0..=numbers.below(4) {
            // Most of a file is zeros; what is not is worth more damage.
            let mut place = numbers.below(bytes.len());
            for _ in 0..8 {
                if bytes[place] != 0 {
                    break;
                }
                place = numbers.below(bytes.len());
            }
            match numbers.below(6) {
                0 => bytes[place] = 0,
                1 => bytes[place] = 0xff,
                2 => bytes[place] ^= 1 << numbers.below(8),
                3 => bytes[place] = bytes[place].wrapping_add(1),
                4 => {
                    let from = numbers.below(bytes.len());
                    let len = numbers.below(16).min(bytes.len() - place.max(from));
                    bytes.copy_within(from..from + len, place);
                }
                _ => bytes[place] = numbers.below(256) as u8,
            }
        }
        if numbers.below(20) == 0 {
            let len = numbers.below(bytes.len());
            bytes.truncate(len);
        }
        if numbers.below(4) > 0 {
            repair_checksums(&mut bytes);
        }
        let scratch = Scratch::new("damaged", &bytes);
        let started = processor_time(begun);
        if let Ok(file) = scratch.open() {
            opened += 1;
            asked += ask_all(&*file);
        }
        let took = processor_time(begun).saturating_sub(started);
        if took > Duration::from_secs(1) {
            std::fs::write(std::env::temp_dir().join("evlib-hdf5-slow.h5"), &bytes).ok();
        }
        assert!(took < Duration::from_secs(1), "round {round} of `{name}` took {took:?}");
        worst = worst.max(took);
    }
    assert!(opened > rounds / 2 && asked > opened as u64, "{opened} opened, {asked} answers, worst {worst:?}");
}

/// Files of `make_hdf5_meta.py --large` in `EVLIB_HDF5_LARGE`: 100,000 chunks and more.
#[test]
#[ignore = "needs large files"]
#[expect(clippy::print_stdout)]
fn large_tables() {
    let Ok(directory) = std::env::var("EVLIB_HDF5_LARGE") else { return };
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "h5")) {
        for _ in 0..3 {
            let begun = Instant::now();
            let file = open(Arc::new(Source::open(path).unwrap())).unwrap();
            let opened = processor_time(begun);
            if file.kind("/data") == Some(Kind::Group) {
                let members = file.list("/data").unwrap().len();
                println!("{}: {members} members in {:?}", path.display(), processor_time(begun).saturating_sub(opened));
                continue;
            }
            let dataset = file.dataset("/x").unwrap();
            let took = processor_time(begun).saturating_sub(opened);
            let Storage::Chunked(chunks) = dataset.storage else { panic!("not chunked") };
            assert!((chunks.list.len() as u64 == chunks.grid_len()));
            // The elements count up.
            let source = Source::open(path).unwrap();
            for chunk in chunks.list.iter().filter(|_| dataset.filters.is_empty()) {
                let mut first = [0; 2];
                source.read_exact_at(&mut first, chunk.address).unwrap();
                let row = chunks.start(chunk.index)[0] * dataset.shape.get(1).unwrap_or(&1);
                assert_eq!(u16::from_le_bytes(first), row as u16, "chunk {}", chunk.index);
            }
            println!("{}: {} chunks in {took:?}", path.display(), chunks.list.len());
        }
    }
}
