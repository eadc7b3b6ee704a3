//! Thrift's compact protocol, as far as Parquet's metadata needs it: structs are written, none are read.
//!
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Appends a number, seven bits a byte, the lowest first.
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number with its sign in the lowest bit.
pub(super) fn zigzag(out: &mut Vec<u8>, value: i64) {
    varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// A struct whose fields are given in order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Struct {
    bytes: Vec<u8>,
    last: i16,
}

impl Struct {
    fn field(mut self, id: i16, ty: u8) -> Self {
        debug_assert!((1..16).contains(&(id - self.last)), "fields in order, no more than fifteen apart");
        self.bytes.push(((id - self.last) as u8) << 4 | ty);
        self.last = id;
        self
    }

    fn list(mut self, id: i16, ty: u8, len: usize) -> Self {
        self = self.field(id, LIST);
        if len < 15 {
            self.bytes.push((len as u8) << 4 | ty);
        } else {
            self.bytes.push(0xF0 | ty);
            varint(&mut self.bytes, len as u64);
        }
        self
    }

    pub(super) fn bool(self, id: i16, value: bool) -> Self {
        self.field(id, if value { TRUE } else { FALSE })
    }

    pub(super) fn byte(self, id: i16, value: u8) -> Self {
        let mut this = self.field(id, BYTE);
        this.bytes.push(value);
        this
    }

    pub(super) fn int32(self, id: i16, value: i64) -> Self {
        let mut this = self.field(id, I32);
        zigzag(&mut this.bytes, value);
        this
    }

    pub(super) fn int64(self, id: i16, value: i64) -> Self {
        let mut this = self.field(id, I64);
        zigzag(&mut this.bytes, value);
        this
    }

    pub(super) fn bytes(self, id: i16, value: &[u8]) -> Self {
        let mut this = self.field(id, BINARY);
        varint(&mut this.bytes, value.len() as u64);
        this.bytes.extend(value);
        this
    }

    pub(super) fn text(self, id: i16, value: &str) -> Self {
        self.bytes(id, value.as_bytes())
    }

    pub(super) fn nested(self, id: i16, value: Self) -> Self {
        let mut this = self.field(id, STRUCT);
        this.bytes.extend(value.finish());
        this
    }

    pub(super) fn ints(self, id: i16, values: &[i64]) -> Self {
        let mut this = self.list(id, I32, values.len());
        for value in values {
            zigzag(&mut this.bytes, *value);
        }
        this
    }

    pub(super) fn texts(self, id: i16, values: &[&str]) -> Self {
        let mut this = self.list(id, BINARY, values.len());
        for value in values {
            varint(&mut this.bytes, value.len() as u64);
            this.bytes.extend(value.as_bytes());
        }
        this
    }

    pub(super) fn structs(self, id: i16, values: Vec<Self>) -> Self {
        let mut this = self.list(id, STRUCT, values.len());
        for value in values {
            this.bytes.extend(value.finish());
        }
        this
    }

    /// The bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let bytes = |value| {
            let mut out = Vec::new();
            zigzag(&mut out, value);
            out
        };
        assert_eq!(bytes(0), [0]);
        assert_eq!(bytes(-1), [1]);
        assert_eq!(bytes(64), [0x80, 1]);
        assert_eq!(bytes(i64::MIN), [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]);
    }

    #[test]
    fn fields_and_lists() {
        let inner = Struct::default().bool(2, false);
        let found = Struct::default().int32(1, 5).text(4, "ab").structs(5, vec![inner]).ints(6, &[1; 15]).finish();
        let expected = [0x15, 10, 0x38, 2, b'a', b'b', 0x19, 0x1C, 0x22, 0, 0x19, 0xF5, 15];
        assert_eq!(found[..expected.len()], expected);
        assert_eq!(found[expected.len()..], [[2; 15].as_slice(), &[0]].concat());
    }
}
