//! ROS 2 bags in `SQLite`: the tables `topics` and `messages`, read in the order of the rows' numbers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{Block, Container, Each, LOOSE, Message, Topic, damaged, topics};
use crate::error::{Error, Result};
use crate::format::codec::{self, Codec, LARGEST, ZSTD_MAGIC};
use crate::format::ros::message::{Kind, Serial};
use crate::format::ros::sqlite::{Database, Entry, Leaf, MAGIC, Pages, Row, Value};
use crate::problem::Problems;
use crate::source::Source;

/// Pages of messages up to which they are counted when a file is opened.
const COUNTED: usize = 4 << 10;

pub(crate) struct Db3 {
    source: Arc<Source>,
    database: Database,
    schema: Vec<Entry>,
    /// Columns of the table of messages.
    columns: Columns,
    topics: Vec<Topic>,
    pages: OnceLock<Tree>,
}

/// The leaf pages of the table of messages.
struct Tree {
    leaves: Vec<Leaf>,
    /// First and last time of the messages of each leaf, where an index says it.
    times: Option<Vec<(i64, i64)>>,
    problems: Problems,
}

#[derive(Debug, Clone, Copy)]
struct Columns {
    root: u32,
    topic: usize,
    time: usize,
    data: usize,
}

impl Db3 {
    pub(crate) fn open(source: Source) -> Result<Self> {
        let head = source.head(MAGIC.len())?;
        if head != MAGIC {
            return Err(Error::format("not an SQLite database")
                .expecting("`SQLite format 3`")
                .but_found(crate::format::looks_like(&head))
                .at(0));
        }
        let source = Arc::new(source);
        let database = Database::open(Arc::clone(&source))?;
        let schema = database.schema()?;
        let table = |name: &str| schema.iter().find(|entry| entry.kind == "table" && entry.name == name);
        let no_bag = || {
            let names: Vec<_> =
                schema.iter().filter(|entry| entry.kind == "table").take(24).map(|entry| format!("`{}`", entry.name)).collect();
            Error::format("an SQLite database that is no ROS 2 bag")
                .expecting("tables `topics` and `messages` with their columns")
                .but_found(if names.is_empty() { "no tables".to_owned() } else { names.join(", ") })
        };
        let (Some(messages), Some(listed)) = (table("messages"), table("topics")) else { return Err(no_bag()) };
        let columns = (|| {
            Some(Columns {
                root: messages.root,
                topic: messages.column("topic_id")?,
                time: messages.column("timestamp")?,
                data: messages.column("data")?,
            })
        })();
        let found = topic_rows(&database, listed)?;
        let (Some(columns), Some(found)) = (columns, found) else { return Err(no_bag()) };
        let mut bag = Self { source, database, schema, columns, topics: Vec::new(), pages: OnceLock::new() };
        let counts = bag.counts()?;
        bag.topics = topics(found, counts.as_ref());
        Ok(bag)
    }

    /// Messages of each topic, where counting them takes no longer than opening a file may.
    fn counts(&self) -> Result<Option<BTreeMap<u64, u64>>> {
        let leaves = &self.tree()?.leaves;
        if leaves.len() > COUNTED {
            return Ok(None);
        }
        let mut counts = BTreeMap::new();
        for leaf in leaves {
            self.database.rows(leaf.page, |row| {
                if let Some(id) = row.get(self.columns.topic).and_then(Value::integer) {
                    *counts.entry(id.cast_unsigned()).or_default() += 1;
                }
                Ok(())
            })?;
        }
        Ok(Some(counts))
    }

    /// The leaf pages, with the times of their messages by the index over times.
    fn tree(&self) -> Result<&Tree> {
        if let Some(tree) = self.pages.get() {
            return Ok(tree);
        }
        let (leaves, missing) = self.database.leaves(self.columns.root)?;
        let mut problems = Problems::default();
        for page in missing {
            damaged(
                &mut problems,
                0,
                self.database.offset(page).min(self.source.len()),
                "a page of the table of messages that is not there or no such page",
            );
        }
        let index = self.schema.iter().find(|entry| {
            entry.kind == "index"
                && entry.table == "messages"
                && entry.columns.first().is_some_and(|column| column.eq_ignore_ascii_case("timestamp"))
        });
        let entries = index.map(|index| self.database.integers(index.root)).transpose()?.flatten();
        let times = entries.and_then(|entries| {
            let mut times = vec![(i64::MAX, i64::MIN); leaves.len()];
            for (time, row) in entries {
                let at = leaves.partition_point(|leaf| leaf.last < row);
                let (first, last) = times.get_mut(at)?;
                (*first, *last) = ((*first).min(time), (*last).max(time));
            }
            Some(times)
        });
        let tree = Tree { leaves, times, problems };
        Ok(self.pages.get_or_init(|| tree))
    }
}

type TopicRow = (u64, String, String, Kind, Option<Serial>);

/// The rows of the table of topics; `None` if it has other columns.
fn topic_rows(database: &Database, table: &Entry) -> Result<Option<Vec<TopicRow>>> {
    let Some((name, kind, format)) =
        table.column("name").zip(table.column("type")).zip(table.column("serialization_format")).map(|((a, b), c)| (a, b, c))
    else {
        return Ok(None);
    };
    let mut found = Vec::new();
    let mut pages = Pages::default();
    for leaf in database.leaves(table.root)?.0 {
        database.rows(leaf.page, |row| {
            let mut text = |column: usize| {
                let mut bytes = Vec::new();
                let whole = database.blob(&row, column, &mut pages, &mut bytes)?;
                Ok::<_, Error>(whole.then(|| String::from_utf8_lossy(&bytes).into_owned()))
            };
            if let (Some(name), Some(type_name), Some(format)) = (text(name)?, text(kind)?, text(format)?) {
                let serial = (format == "cdr").then_some(Serial::Cdr);
                let kind = if serial.is_some() { Kind::of(&type_name, "") } else { Kind::Other };
                found.push((row.id.cast_unsigned(), name, type_name, kind, serial));
            }
            Ok(())
        })?;
    }
    Ok(Some(found))
}

impl Container for Db3 {
    fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn compression(&self) -> String {
        "none, or zstd message by message".to_owned()
    }

    fn is_dear(&self) -> bool {
        false
    }

    fn blocks(&self, _: &Topic) -> Result<(Vec<Block>, Problems)> {
        let tree = self.tree()?;
        // Leaves and what hangs on them are spread evenly over the file.
        let each = (self.source.len() / (tree.leaves.len() as u64).max(1)).max(1);
        let together = (LOOSE / each).max(1) as usize;
        let blocks = tree.leaves.chunks(together).enumerate().map(|(number, leaves)| {
            let start = number * together;
            let times = tree.times.as_ref().and_then(|times| times.get(start..start + leaves.len()));
            let range =
                times.map(|times| times.iter().fold((i64::MAX, i64::MIN), |range, time| (range.0.min(time.0), range.1.max(time.1))));
            Block {
                start: start as u64,
                len: leaves.len() as u64,
                offset: leaves.first().map_or(0, |leaf| self.database.offset(leaf.page)),
                bytes: each * leaves.len() as u64,
                log_ns: range.filter(|range| range.0 <= range.1),
                chunk: false,
            }
        });
        Ok((blocks.collect(), tree.problems.clone()))
    }

    fn visit(&self, block: &Block, topic: &Topic, _: bool, problems: &mut Problems, each: Each<'_>) -> Result<()> {
        let tree = self.tree()?;
        let range = usize::try_from(block.start).unwrap_or(usize::MAX)..usize::try_from(block.start + block.len).unwrap_or(usize::MAX);
        let mut pages = Pages::default();
        let (mut data, mut unpacked) = (Vec::new(), Vec::new());
        let Columns { topic: topic_at, time, data: data_at, .. } = self.columns;
        let mut more = true;
        for leaf in tree.leaves.get(range).unwrap_or_default() {
            let whole = self.database.rows(leaf.page, |row: Row<'_>| {
                if !more {
                    return Ok(());
                }
                let id = row.get(topic_at).and_then(Value::integer);
                if !id.is_some_and(|id| topic.ids.contains(&id.cast_unsigned())) {
                    return Ok(());
                }
                let log_ns = row.get(time).and_then(Value::integer).unwrap_or(0);
                data.clear();
                if !self.database.blob(&row, data_at, &mut pages, &mut data)? {
                    damaged(problems, 0, row.offset, "a message whose pages are not all there");
                }
                let mut message = Message { data: &data, log_ns, offset: row.offset, plain: false };
                if data.starts_with(&ZSTD_MAGIC) {
                    let size = codec::zstd_size(&data).unwrap_or(LARGEST.min(data.len().saturating_mul(64)));
                    if unpacked.len() < size {
                        unpacked = vec![0; size];
                    }
                    let written = codec::decompress(Codec::Zstd, &data, unpacked.get_mut(..size).unwrap_or_default());
                    message.data = unpacked.get(..written).unwrap_or_default();
                }
                more = each(message);
                Ok(())
            })?;
            if !more {
                break;
            }
            if !whole {
                let offset = self.database.offset(leaf.page).min(self.source.len());
                damaged(problems, 0, offset, "a page of messages that makes no sense");
            }
        }
        Ok(())
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let with_log = if self.database.has_log() { ", with its write-ahead log" } else { "" };
        vec![("container".to_owned(), format!("ROS 2 bag, SQLite{with_log}"))]
    }
}
