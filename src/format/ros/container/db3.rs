//! ROS 2 bags in `SQLite`: the tables `topics` and `messages`, read in the order of the times of recording.
//!
//! Rows are stored by number, and their numbers nearly always follow the times. Where the index over times confirms it,
//! pages are read as they come. Otherwise all leaf pages are looked through once, and the messages of a topic that are
//! not in order are looked up one by one by a list of times and numbers: 16 bytes a message.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{Block, Container, Each, LOOSE, Message, Topic, Unpacker, damaged, topics};
use crate::error::{Error, Result};
use crate::format::ros::message::{Kind, Serial};
use crate::format::ros::sqlite::{Database, Entry, Leaf, Leaves, MAGIC, Pages, Row, Value};
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
    orders: OnceLock<Orders>,
}

/// The leaf pages of the table of messages.
struct Tree {
    leaves: Vec<Leaf>,
    /// First and last time of the messages of each leaf, where an index says it.
    times: Option<Vec<(i64, i64)>>,
    /// Whether an index says that the times never step back from row to row.
    ordered: bool,
    problems: Problems,
}

impl Tree {
    /// The leaf page that has a row, if any has.
    fn leaf(&self, row: i64) -> Option<&Leaf> {
        self.leaves.get(self.leaves.partition_point(|leaf| leaf.last < row))
    }
}

/// Time and number of a row.
type Key = (i64, i64);

/// The messages of topics whose rows are not in the order of their times.
#[derive(Default)]
struct Orders {
    /// For each topic its rows in order; `None` where they are in order by themselves.
    topics: Vec<Option<Vec<Key>>>,
    /// Pages that make no sense.
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
        let mut bag = Self { source, database, schema, columns, topics: Vec::new(), pages: OnceLock::new(), orders: OnceLock::new() };
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
        let mut entries = index.map(|index| self.database.integers(index.root)).transpose()?.flatten();
        let ordered = entries.as_mut().is_some_and(|entries| {
            entries.sort_unstable_by_key(|(_, row)| *row);
            entries.is_sorted_by_key(|(time, _)| *time)
        });
        let times = entries.and_then(|entries| {
            let mut times = vec![(i64::MAX, i64::MIN); leaves.len()];
            for (time, row) in &*entries {
                let at = leaves.partition_point(|leaf| leaf.last < *row);
                let (first, last) = times.get_mut(at)?;
                (*first, *last) = ((*first).min(*time), (*last).max(*time));
            }
            Some(times)
        });
        let tree = Tree { leaves, times, ordered, problems };
        Ok(self.pages.get_or_init(|| tree))
    }

    /// The messages of topics that are not in the order of their times.
    fn orders(&self) -> Result<&Orders> {
        if let Some(orders) = self.orders.get() {
            return Ok(orders);
        }
        let tree = self.tree()?;
        let mut orders = Orders::default();
        if !tree.ordered {
            let mut keys: Vec<Vec<Key>> = vec![Vec::new(); self.topics.len()];
            for leaf in &tree.leaves {
                let whole = self.database.rows(leaf.page, |row| {
                    let id = row.get(self.columns.topic).and_then(Value::integer).map(i64::cast_unsigned);
                    let topic = id.and_then(|id| self.topics.iter().position(|topic| topic.ids.contains(&id)));
                    if let Some(keys) = topic.and_then(|topic| keys.get_mut(topic)) {
                        keys.push((self.time(&row), row.id));
                    }
                    Ok(())
                })?;
                if !whole {
                    self.senseless(leaf, &mut orders.problems);
                }
            }
            orders.topics = keys
                .into_iter()
                .map(|mut keys| {
                    let ordered = keys.is_sorted_by_key(|(time, _)| *time);
                    keys.sort_unstable();
                    (!ordered).then_some(keys)
                })
                .collect();
        }
        Ok(self.orders.get_or_init(|| orders))
    }

    /// The rows of a topic in order; `None` where they are in order by themselves.
    fn order(&self, topic: &Topic) -> Result<Option<(&[Key], &Problems)>> {
        let orders = self.orders()?;
        let number = self.topics.iter().position(|one| one.ids == topic.ids);
        let keys = number.and_then(|number| orders.topics.get(number)).and_then(Option::as_deref);
        Ok(keys.map(|keys| (keys, &orders.problems)))
    }

    /// When a message was recorded.
    fn time(&self, row: &Row<'_>) -> i64 {
        row.get(self.columns.time).and_then(Value::integer).unwrap_or(0)
    }

    /// Counts a leaf page that is not there or has cells that make no sense.
    fn senseless(&self, leaf: &Leaf, problems: &mut Problems) {
        damaged(problems, 0, self.database.offset(leaf.page).min(self.source.len()), "a page of messages that makes no sense");
    }
}

/// Takes messages out of rows, in buffers that are used again.
struct Messages<'a> {
    bag: &'a Db3,
    topic: &'a Topic,
    pages: Pages,
    data: Vec<u8>,
    unpacker: Unpacker,
}

impl Messages<'_> {
    /// Gives the message of a row if it is one of the topic's; whether more are wanted.
    fn give(&mut self, row: &Row<'_>, problems: &mut Problems, each: Each<'_>) -> Result<bool> {
        let Self { bag, topic, pages, data, unpacker } = self;
        let id = row.get(bag.columns.topic).and_then(Value::integer);
        if !id.is_some_and(|id| topic.ids.contains(&id.cast_unsigned())) {
            return Ok(true);
        }
        if row.size() > unpacker.left() {
            damaged(problems, 0, row.offset, "a message that is larger than the file has room for");
            return Ok(true);
        }
        data.clear();
        if !bag.database.blob(row, bag.columns.data, pages, data)? {
            damaged(problems, 0, row.offset, "a message whose pages are not all there");
        }
        let message = Message { data, log_ns: bag.time(row), offset: row.offset, plain: false };
        Ok(each(unpacker.message(message)))
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

    fn blocks(&self, topic: &Topic) -> Result<(Vec<Block>, Problems)> {
        let tree = self.tree()?;
        if let Some((keys, found)) = self.order(topic)? {
            let each = (self.source.len() / (keys.len() as u64).max(1)).max(1);
            let together = (LOOSE / each).max(1) as usize;
            let blocks = keys.chunks(together).enumerate().map(|(number, keys)| Block {
                start: (number * together) as u64,
                len: keys.len() as u64,
                offset: keys.first().and_then(|(_, row)| tree.leaf(*row)).map_or(0, |leaf| self.database.offset(leaf.page)),
                bytes: each * keys.len() as u64,
                log_ns: keys.first().zip(keys.last()).map(|(first, last)| (first.0, last.0)),
                chunk: false,
            });
            let mut problems = tree.problems.clone();
            problems.merge(found);
            return Ok((blocks.collect(), problems));
        }
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
        let unpacker = Unpacker::new(block);
        let mut messages = Messages { bag: self, topic, pages: Pages::default(), data: Vec::new(), unpacker };
        if let Some((keys, _)) = self.order(topic)? {
            let mut leaves = Leaves::default();
            for (_, id) in keys.get(range).unwrap_or_default() {
                let Some(leaf) = tree.leaf(*id) else { continue };
                match self.database.row(leaf.page, *id, &mut leaves)? {
                    Some(row) if !messages.give(&row, problems, each)? => break,
                    Some(_) => {}
                    None => self.senseless(leaf, problems),
                }
            }
            return Ok(());
        }
        let mut more = true;
        for leaf in tree.leaves.get(range).unwrap_or_default() {
            let whole = self.database.rows(leaf.page, |row: Row<'_>| {
                more = more && messages.give(&row, problems, each)?;
                Ok(())
            })?;
            if !more {
                break;
            }
            if !whole {
                self.senseless(leaf, problems);
            }
        }
        Ok(())
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let with_log = if self.database.has_log() { ", with its write-ahead log" } else { "" };
        vec![("container".to_owned(), format!("ROS 2 bag, SQLite{with_log}"))]
    }
}
