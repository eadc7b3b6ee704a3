//! Tables of a flatbuffer, every step of which is checked against the bytes that are there.
//!
//! <https://flatbuffers.dev/internals/>

/// A size-prefixed buffer: its length, then the offset of its root table, then its identifier.
#[derive(Clone, Copy)]
pub(crate) struct Buffer<'a> {
    bytes: &'a [u8],
}

/// A table in a buffer.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the table's field offsets are, and how many bytes they take, their header included.
    vtable: usize,
    vtable_len: usize,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_le_bytes)
}

pub(crate) fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    array(bytes, at).map(i64::from_le_bytes)
}

impl<'a> Buffer<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The four letters that say what the buffer holds.
    pub(crate) fn identifier(self) -> Option<[u8; 4]> {
        array(self.bytes, 8)
    }

    /// The root table.
    pub(crate) fn root(self) -> Option<Table<'a>> {
        Table::at(self.bytes, offset(self.bytes, 4)?)
    }
}

/// The place that the offset at `at` leads to.
fn offset(bytes: &[u8], at: usize) -> Option<usize> {
    at.checked_add(usize::try_from(u32_at(bytes, at)?).ok()?)
}

impl<'a> Table<'a> {
    fn at(bytes: &'a [u8], at: usize) -> Option<Self> {
        let back = i64::from(i32_at(bytes, at)?);
        let vtable = usize::try_from(i64::try_from(at).ok()?.checked_sub(back)?).ok()?;
        let vtable_len = usize::from(u16_at(bytes, vtable)?);
        Some(Self { bytes, at, vtable, vtable_len })
    }

    /// Where field `index` is; `None` where the table does not have it.
    fn field(self, index: usize) -> Option<usize> {
        let entry = 4 + 2 * index;
        if entry + 2 > self.vtable_len {
            return None;
        }
        match u16_at(self.bytes, self.vtable + entry)? {
            0 => None,
            offset => Some(self.at + usize::from(offset)),
        }
    }

    fn scalar<const N: usize>(self, index: usize) -> Option<[u8; N]> {
        array(self.bytes, self.field(index)?)
    }

    pub(crate) fn i8(self, index: usize) -> Option<i8> {
        self.scalar(index).map(i8::from_le_bytes)
    }

    pub(crate) fn i16(self, index: usize) -> Option<i16> {
        self.scalar(index).map(i16::from_le_bytes)
    }

    pub(crate) fn i32(self, index: usize) -> Option<i32> {
        self.scalar(index).map(i32::from_le_bytes)
    }

    pub(crate) fn i64(self, index: usize) -> Option<i64> {
        self.scalar(index).map(i64::from_le_bytes)
    }

    pub(crate) fn f32(self, index: usize) -> Option<f32> {
        self.scalar(index).map(f32::from_le_bytes)
    }

    /// Where the elements of the vector `index` start, and how many there are; no bounds are checked yet.
    pub(crate) fn vector(self, index: usize) -> Option<(usize, usize)> {
        let at = offset(self.bytes, self.field(index)?)?;
        Some((at.checked_add(4)?, usize::try_from(u32_at(self.bytes, at)?).ok()?))
    }

    /// The vector `index` of elements of `size` bytes, or as many whole ones as there are, and how many it claims.
    pub(crate) fn elements(self, index: usize, size: usize) -> Option<(&'a [u8], usize)> {
        let (start, count) = self.vector(index)?;
        let rest = self.bytes.get(start..)?;
        let len = count.saturating_mul(size).min(rest.len() / size * size);
        Some((rest.get(..len)?, count))
    }

    /// Whether the table does not have field `index`: a field that leads nowhere is damage, one that is missing is not.
    pub(crate) fn lacks(self, index: usize) -> bool {
        let entry = 4 + 2 * index;
        entry + 2 > self.vtable_len || u16_at(self.bytes, self.vtable + entry) == Some(0)
    }

    /// The bytes of a vector or string, all of which are there.
    pub(crate) fn bytes(self, index: usize) -> Option<&'a [u8]> {
        let (start, count) = self.vector(index)?;
        self.bytes.get(start..start.checked_add(count)?)
    }

    /// The tables of the vector `index`; each is `None` where it leads outside the buffer.
    pub(crate) fn tables(self, index: usize) -> Option<impl ExactSizeIterator<Item = Option<Table<'a>>>> {
        let (start, count) = self.vector(index)?;
        let entries = self.bytes.get(start..start.checked_add(count.checked_mul(4)?)?)?;
        Some((0..entries.len() / 4).map(move |entry| Table::at(self.bytes, offset(self.bytes, start + 4 * entry)?)))
    }

    /// The struct of field `index`, of `N` bytes.
    pub(crate) fn inline<const N: usize>(self, index: usize) -> Option<[u8; N]> {
        self.scalar(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The packet of one event of the format sheet.
    const PACKET: [u8; 48] = [
        0x2C, 0, 0, 0, 0x10, 0, 0, 0, b'E', b'V', b'T', b'S', 0, 0, 6, 0, 8, 0, 4, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0xE8, 3, 0, 0, 0,
        0, 0, 0, 10, 0, 20, 0, 1, 0, 0, 0,
    ];

    #[test]
    fn a_vector_of_structs() {
        let buffer = Buffer::new(&PACKET);
        assert_eq!(buffer.identifier(), Some(*b"EVTS"));
        let (elements, count) = buffer.root().and_then(|root| root.elements(0, 16)).expect("a vector");
        assert_eq!((elements.len(), count), (16, 1));
        assert_eq!(i64_at(elements, 0), Some(1000));
        assert!(buffer.root().expect("a root").i64(1).is_none());
    }

    #[test]
    fn any_damage_is_no_panic() {
        for len in 0..PACKET.len() {
            let _any = Buffer::new(&PACKET[..len]).root().and_then(|root| root.elements(0, 16));
        }
        for at in 0..PACKET.len() {
            for value in [0_u8, 1, 4, 127, 128, 255] {
                let mut packet = PACKET;
                packet[at] = value;
                if let Some(root) = Buffer::new(&packet).root() {
                    let _any = (root.elements(0, 16), root.bytes(0), root.tables(0).map(|tables| tables.flatten().count()));
                }
            }
        }
    }
}
