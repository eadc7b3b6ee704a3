//! Groups and the paths through them.

use std::sync::{Arc, PoisonError};

use hdf5_reader::io::Cursor;
use hdf5_reader::messages::link::{self, LinkTarget};
use hdf5_reader::messages::{link_info, symbol_table_msg};
use hdf5_reader::{btree_v2, fractal_heap, local_heap};

use super::super::Kind;
use super::{LINK, LINK_INFO, Link, Message, SYMBOL_TABLE, Target, Walk, uint};
use crate::error::{ErrorKind, Result};

/// Soft links followed for one path.
const SOFT_LINKS: usize = 32;
/// Components of one path, those of the soft links in it included.
const COMPONENTS: usize = 1024;
/// Groups whose members are remembered.
const GROUPS: usize = 8;

impl Walk<'_> {
    pub(super) fn links(&self, address: u64) -> Result<Arc<Vec<Link>>> {
        if let Some(links) = self.file.groups.lock().unwrap_or_else(PoisonError::into_inner).get(&address) {
            return Ok(links.clone());
        }
        let messages = self.header(address)?;
        if Self::kind_of(&messages) != Kind::Group {
            return Err(self.error(ErrorKind::InvalidArgument, "not a group"));
        }
        let mut links = Vec::new();
        if let Some(table) = self.find(&messages, SYMBOL_TABLE)? {
            self.old_links(&table, &mut links)?;
        } else {
            for message in messages.iter().filter(|message| message.kind == LINK && !message.shared) {
                links.push(self.link(&message.data)?);
            }
            if let Some(info) = self.find(&messages, LINK_INFO)? {
                let info = link_info::parse(&mut Cursor::new(&info), self.file.offset_size, self.file.length_size, info.len())
                    .map_err(|error| self.translate(&error))?;
                self.dense(info.fractal_heap_address, info.btree_name_index_address, |object| {
                    links.push(self.link(object)?);
                    Ok(())
                })?;
            }
        }
        // No path leads to members with such names.
        links.retain(|link| !link.name.is_empty() && link.name != "." && !link.name.contains('/'));
        links.sort_by(|a, b| a.name.cmp(&b.name));
        links.dedup_by(|a, b| a.name == b.name);
        let links = Arc::new(links);
        let mut groups = self.file.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() >= GROUPS {
            groups.clear();
        }
        groups.insert(address, links.clone());
        Ok(links)
    }

    pub(super) fn link(&self, data: &[u8]) -> Result<Link> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        match link::parse(&mut Cursor::new(data), offset_size, length_size, data.len()) {
            Ok(found) => {
                let target = match found.target {
                    LinkTarget::Hard { address } => Target::Object(address),
                    LinkTarget::Soft { path } => Target::Soft(path),
                    LinkTarget::External { .. } => Target::Elsewhere,
                };
                Ok(Link { name: found.name, target })
            }
            Err(error) => Err(self.translate(&error)),
        }
    }

    /// A group of HDF5 before 1.8, specification III.A to III.D.
    pub(super) fn old_links(&self, table: &[u8], links: &mut Vec<Link>) -> Result<()> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        let table = symbol_table_msg::parse(&mut Cursor::new(table), offset_size, length_size, table.len())
            .map_err(|error| self.translate(&error))?;
        let heap = local_heap::LocalHeap::parse_at_storage(self, table.heap_address, offset_size, length_size)
            .map_err(|error| self.translate(&error))?;
        let names = self.read(heap.data_segment_address, usize::try_from(heap.data_segment_size).unwrap_or(usize::MAX))?;
        // Names of a sound file do not overlap, and soft links have two texts.
        let mut left = names.len().saturating_mul(2);
        let mut text = |offset: u64| {
            let rest = usize::try_from(offset).ok().and_then(|offset| names.get(offset..)).unwrap_or_default();
            let end = rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.cut("a name"))?;
            left = left.checked_sub(end).ok_or_else(|| self.format("the names of a group overlap"))?;
            Ok::<_, crate::Error>(String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned())
        };
        self.btree_v1(table.btree_address, 0, usize::from(length_size), |_, node| {
            let what = "a symbol table node";
            let prefix = self.read(node, 8)?;
            let mut fields = self.fields(&prefix);
            let count = (fields.take(6) == Some(b"SNOD\x01\0")).then(|| fields.u16()).flatten();
            let count = count.ok_or_else(|| self.format("no symbol table node where one should be"))?;
            let piece = self.read(node + 8, usize::from(count) * (2 * usize::from(offset_size) + 24))?;
            let mut fields = self.fields(&piece);
            for _ in 0..count {
                let (name, address) = (fields.offset(), fields.offset());
                let cached = fields.u32();
                let scratch = fields.u32().and_then(|_| fields.take(16)).and_then(|scratch| scratch.get(..4)).and_then(uint);
                let (Some(name), Some(address), Some(scratch)) = (name, address, scratch) else { return Err(self.cut(what)) };
                let target = if cached == Some(2) { Target::Soft(text(scratch)?) } else { Target::Object(address) };
                links.push(Link { name: text(name)?, target });
            }
            Ok(())
        })
    }

    /// The leaves of a version 1 B-tree: a key and a child each. Specification III.A.1.
    pub(super) fn btree_v1(&self, root: u64, kind: u8, key: usize, mut leaf: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
        let what = "a B-tree node";
        let mut stack = vec![(root, None::<u8>)];
        let prefix_len = 8 + 2 * usize::from(self.file.offset_size);
        let entry = key + usize::from(self.file.offset_size);
        while let Some((address, expected)) = stack.pop() {
            if self.file.is_undefined(address) {
                continue;
            }
            let prefix = self.read(address, prefix_len)?;
            let mut fields = self.fields(&prefix);
            let is_node = fields.take(4) == Some(b"TREE") && fields.u8() == Some(kind);
            let (level, count) = (fields.u8(), fields.u16());
            let (true, Some(level), Some(count)) = (is_node, level, count) else {
                return Err(self.format("no B-tree node where one should be").at(self.file.base + address));
            };
            // Levels fall by one from parent to child, so a walk ends.
            if expected.is_some_and(|expected| expected != level) {
                return Err(self.format("a B-tree whose levels are wrong").at(self.file.base + address));
            }
            let piece = self.read(address.saturating_add(prefix_len as u64), usize::from(count) * entry)?;
            if level == 0 {
                for entry in piece.chunks_exact(entry) {
                    let (key, child) = entry.split_at_checked(key).ok_or_else(|| self.cut(what))?;
                    leaf(key, uint(child).ok_or_else(|| self.cut(what))?)?;
                }
            } else {
                let children = piece.chunks_exact(entry).rev().filter_map(|entry| entry.get(key..).and_then(uint));
                stack.extend(children.map(|child| (child, Some(level - 1))));
            }
        }
        Ok(())
    }

    /// The objects of a fractal heap that a B-tree lists: links or attributes of large groups.
    pub(super) fn dense(&self, heap: u64, index: u64, mut object: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        if self.file.is_undefined(heap) || self.file.is_undefined(index) {
            return Ok(());
        }
        let heap =
            fractal_heap::FractalHeap::parse_at_storage(self, heap, offset_size, length_size).map_err(|error| self.translate(&error))?;
        if heap.io_filters_len > 0 {
            return Err(self.unsupported("compressed links or attributes"));
        }
        let tree =
            btree_v2::BTreeV2Header::parse_at_storage(self, index, offset_size, length_size).map_err(|error| self.translate(&error))?;
        let records = btree_v2::collect_btree_v2_records_storage(self, &tree, offset_size, length_size, None, &[], None)
            .map_err(|error| self.translate(&error))?;
        let mut cache = fractal_heap::FractalHeapDirectBlockCache::default();
        let mut left = self.file.len;
        for record in &records {
            let (btree_v2::BTreeV2Record::LinkNameHash { heap_id, .. } | btree_v2::BTreeV2Record::AttributeNameHash { heap_id, .. }) =
                record
            else {
                return Err(self.format("an index of links or attributes has other entries"));
            };
            let bytes = heap
                .get_object_storage_cached(heap_id, self, offset_size, length_size, &mut cache)
                .map_err(|error| self.translate(&error))?;
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| self.format("links or attributes overlap"))?;
            object(&bytes)?;
        }
        Ok(())
    }

    /// Follows a path from a group; `None` if a name on the way is not there.
    pub(super) fn follow(&self, group: u64, path: &str) -> Result<Option<u64>> {
        let mut current = if path.starts_with('/') { self.file.root } else { group };
        let mut rest: Vec<String> = components(path);
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = rest.pop() {
            steps += 1;
            if steps > COMPONENTS {
                return Err(self.format("a path of too many names"));
            }
            let members = self.links(current)?;
            let Ok(place) = members.binary_search_by(|link| link.name.as_str().cmp(&name)) else { return Ok(None) };
            match members.get(place).map(|link| &link.target) {
                Some(Target::Object(address)) => current = *address,
                Some(Target::Soft(target)) => {
                    links += 1;
                    if links > SOFT_LINKS {
                        return Err(self.format("soft links go in circles"));
                    }
                    if target.starts_with('/') {
                        current = self.file.root;
                    }
                    rest.extend(components(target));
                    if rest.len() > COMPONENTS {
                        return Err(self.format("a path of too many names"));
                    }
                }
                Some(Target::Elsewhere) => return Err(self.unsupported("a link to another file")),
                None => return Ok(None),
            }
        }
        Ok(Some(current))
    }

    pub(super) fn object(&self, path: &str) -> Result<Vec<Message>> {
        let address = self.follow(self.file.root, path)?.ok_or_else(|| self.error(ErrorKind::InvalidArgument, "no such object"))?;
        self.header(address)
    }
}

/// The names of a path, last first.
fn components(path: &str) -> Vec<String> {
    path.split('/').rev().filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect()
}
