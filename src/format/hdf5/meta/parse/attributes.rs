//! Attributes, specification IV.A.2.m.

use hdf5_reader::io::Cursor;
use hdf5_reader::messages::attribute_info;

use super::super::{Dtype, Value};
use super::{ATTRIBUTE, ATTRIBUTE_INFO, DATASPACE, DATATYPE, Walk, decode_integer, shape, uint};
use crate::error::Result;

impl Walk<'_> {
    pub(super) fn attributes(&self) -> Result<Vec<(String, Value)>> {
        let messages = self.object(self.about)?;
        let mut left = self.file.len;
        let mut attributes = Vec::new();
        let mut read = |data: &[u8], shared| {
            let resolved = if shared { self.shared(data, ATTRIBUTE).map(Some) } else { Ok(None) };
            let found = resolved.and_then(|resolved| self.attribute(resolved.as_deref().unwrap_or(data), &mut left));
            match found {
                Ok(attribute) => attributes.push(attribute),
                Err(error) => attributes.push((String::new(), Value::Other(error.to_string()))),
            }
        };
        for message in messages.iter().filter(|message| message.kind == ATTRIBUTE) {
            read(&message.data, message.shared);
        }
        if let Some(info) = self.find(&messages, ATTRIBUTE_INFO)? {
            let info = attribute_info::parse(&mut Cursor::new(&info), self.file.offset_size, self.file.length_size, info.len())
                .map_err(|error| self.translate(&error))?;
            self.dense(info.fractal_heap_address, info.btree_name_index_address, |object| {
                read(object, false);
                Ok(())
            })?;
        }
        attributes.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(attributes)
    }

    /// An attribute message, specification IV.A.2.m.
    pub(super) fn attribute(&self, data: &[u8], left: &mut u64) -> Result<(String, Value)> {
        let what = "an attribute";
        let mut fields = self.fields(data);
        let mut parts = || {
            let (version, flags) = (fields.u8()?, fields.u8()?);
            let sizes = [fields.u16()?, fields.u16()?, fields.u16()?];
            if version == 3 {
                fields.u8()?;
            }
            let mut part = |size: u16| {
                let size = usize::from(size);
                let part = fields.take(size)?;
                if version == 1 {
                    fields.take(size.next_multiple_of(8) - size)?;
                }
                Some(part)
            };
            let [name, dtype, space] = sizes;
            let parts = (part(name)?, part(dtype)?, part(space)?);
            Some((version, flags, parts, fields.bytes))
        };
        let (version, flags, (name, dtype, space), raw) = parts().ok_or_else(|| self.cut(what))?;
        if !(1..=3).contains(&version) {
            return Err(self.unsupported(format_args!("attribute of version {version}")));
        }
        let name = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let fetch = |bit: u8, data: &[u8], kind| {
            if version > 1 && flags & bit != 0 { self.shared(data, kind) } else { Ok(data.to_vec()) }
        };
        let value = fetch(1, dtype, DATATYPE)
            .and_then(|dtype| self.dtype(&dtype))
            .and_then(|dtype| Ok((dtype, self.dataspace(&fetch(2, space, DATASPACE)?)?)))
            .and_then(|(dtype, space)| self.value(&dtype, &shape(&space), raw, left));
        Ok((name, value.unwrap_or_else(|error| Value::Other(error.to_string()))))
    }

    pub(super) fn value(&self, dtype: &Dtype, shape: &[u64], raw: &[u8], left: &mut u64) -> Result<Value> {
        let single = shape.is_empty();
        let (dtype, mut count) = match dtype {
            Dtype::Array { base, .. } => (&**base, (dtype.bytes() / base.bytes().max(1)) as u64),
            dtype => (dtype, 1),
        };
        for extent in shape {
            count = count.checked_mul(*extent).ok_or_else(|| self.format("an attribute of too many elements"))?;
        }
        let bytes = dtype.bytes();
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(bytes));
        let raw = len.and_then(|len| raw.get(..len)).ok_or_else(|| self.cut("an attribute"))?;
        let elements = raw.chunks_exact(bytes);
        Ok(match dtype {
            Dtype::Integer(base) | Dtype::Enum { base, .. } => {
                match elements.map(|element| decode_integer(element, *base)).collect::<Option<Vec<_>>>() {
                    Some(values) => one_or_all(values, single, Value::Integer, Value::Integers),
                    None => Value::Other(format!("integers of {bytes} bytes beyond 64 bits with a sign")),
                }
            }
            Dtype::Float { big_endian, .. } => {
                match elements.map(|element| decode_float(element, *big_endian)).collect::<Option<Vec<_>>>() {
                    Some(values) => one_or_all(values, single, Value::Float, Value::Floats),
                    None => Value::Other(format!("floating-point numbers of {bytes} bytes")),
                }
            }
            Dtype::Text { .. } => one_or_all(elements.map(text).collect(), single, Value::Text, Value::Texts),
            Dtype::VlenText { .. } => {
                let mut texts = Vec::new();
                for element in elements {
                    let (address, len) = self.sequence(element, 1)?.unwrap_or((0, 0));
                    *left = left.checked_sub(len).ok_or_else(|| self.format("attributes overlap"))?;
                    texts.push(text(&self.read(address, usize::try_from(len).unwrap_or(usize::MAX))?));
                }
                one_or_all(texts, single, Value::Text, Value::Texts)
            }
            Dtype::Compound { fields, .. } => {
                let names: Vec<_> = fields.iter().take(16).map(|field| field.name.as_str()).collect();
                Value::Other(format!("compound of {}", names.join(", ")))
            }
            Dtype::Vlen { .. } => Value::Other("variable-length sequences".to_owned()),
            Dtype::Array { .. } => Value::Other("arrays of arrays".to_owned()),
            Dtype::Other { name, .. } => Value::Other(name.clone()),
        })
    }
}

fn one_or_all<T>(mut values: Vec<T>, single: bool, one: fn(T) -> Value, all: fn(Vec<T>) -> Value) -> Value {
    match values.pop() {
        Some(value) if single && values.is_empty() => one(value),
        Some(value) => {
            values.push(value);
            all(values)
        }
        None => all(values),
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).trim_end_matches(' ').to_owned()
}

fn decode_float(bytes: &[u8], big_endian: bool) -> Option<f64> {
    let mut bytes = bytes.to_vec();
    if big_endian {
        bytes.reverse();
    }
    match bytes.len() {
        4 => Some(f64::from(f32::from_bits(uint(&bytes)? as u32))),
        8 => Some(f64::from_bits(uint(&bytes)?)),
        _ => None,
    }
}
