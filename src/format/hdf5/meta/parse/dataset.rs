//! Data sets: type, shape, filters and storage.

use hdf5_reader::io::Cursor;
use hdf5_reader::messages::dataspace::{self, DataspaceMessage};
use hdf5_reader::messages::datatype::{self, Datatype, VarLenKind};
use hdf5_reader::messages::fill_value;
use hdf5_reader::messages::layout::{self, DataLayout};
use hdf5_reader::{ByteOrder, StringSize};

use super::super::{Dataset, Dtype, Field, Filter, Integer, Kind, Storage};
use super::chunks::Grid;
use super::{DATASPACE, DATATYPE, EXTERNAL_FILES, FILL, FILL_OLD, FILTERS, LAYOUT, Walk, decode_integer, shape};
use crate::error::{ErrorKind, Result};

impl Walk<'_> {
    pub(super) fn dataset(&self) -> Result<Dataset> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        let messages = self.object(self.about)?;
        if Self::kind_of(&messages) != Kind::Dataset {
            return Err(self.error(ErrorKind::InvalidArgument, "not a data set"));
        }
        if messages.iter().any(|message| message.kind == EXTERNAL_FILES) {
            return Err(self.unsupported("its data is in another file"));
        }
        let found = |kind| self.find(&messages, kind)?.ok_or_else(|| self.format("a header message is missing"));
        let (dtype, space) = (self.dtype(&found(DATATYPE)?)?, self.dataspace(&found(DATASPACE)?)?);
        let shape = shape(&space);
        let element = dtype.bytes() as u64;
        let bytes = shape.iter().try_fold(element, |product, extent| product.checked_mul(*extent));
        let bytes = bytes.ok_or_else(|| self.format(format_args!("a shape of {shape:?} is too large")))?;
        let filters = self.find(&messages, FILTERS)?.map_or(Ok(Vec::new()), |data| self.filters(&data))?;
        let fill = match (self.find(&messages, FILL)?, self.find(&messages, FILL_OLD)?) {
            (Some(data), _) => fill_value::parse_new(&mut Cursor::new(&data), offset_size, length_size, data.len()).map(Some),
            (None, Some(data)) => fill_value::parse_old(&mut Cursor::new(&data), offset_size, length_size, data.len()).map(Some),
            (None, None) => Ok(None),
        };
        let fill = fill.map_err(|error| self.translate(&error))?.and_then(|fill| fill.value);
        if fill.as_ref().is_some_and(|fill| fill.len() as u64 != element) {
            return Err(self.format("a fill value that is not an element"));
        }
        let data = found(LAYOUT)?;
        let (version, class) = (data.first().copied(), data.get(1).copied());
        if matches!((version, class), (Some(4..), Some(3))) {
            return Err(self.unsupported("a virtual data set: its data is in other files"));
        }
        // Bit 0: chunks at the edge are stored without filters.
        let plain_edges = matches!((version, class), (Some(4..), Some(2))) && data.get(2).is_some_and(|flags| flags & 1 != 0);
        let layout = layout::parse(&mut Cursor::new(&data), offset_size, length_size, data.len());
        let storage = match layout.map_err(|error| self.translate(&error))?.layout {
            DataLayout::Compact { data } => {
                let data = usize::try_from(bytes).ok().and_then(|bytes| data.get(..bytes)).map(<[u8]>::to_vec);
                Storage::Compact(data.ok_or_else(|| self.format("fewer bytes than its shape needs"))?)
            }
            DataLayout::Contiguous { address, .. } if bytes == 0 || self.file.is_undefined(address) => Storage::Absent,
            DataLayout::Contiguous { address, size } => {
                // Version 1 and 2 layouts have four bytes for every extent, so that only theirs may be cut off.
                if size < bytes && version.is_some_and(|version| version >= 3) {
                    return Err(self.format("fewer bytes than its shape needs").expecting(format!("{bytes}")).but_found(format!("{size}")));
                }
                if address.checked_add(bytes).is_none_or(|end| end > self.file.len) {
                    return Err(self
                        .error(ErrorKind::Truncated, "its data ends beyond the end of the file")
                        .at(self.file.base.saturating_add(address)));
                }
                Storage::Contiguous { address: self.file.base + address, bytes }
            }
            DataLayout::Chunked { address, dims, chunk_indexing, .. } => {
                let chunk = Grid { walk: self, space: &space, shape: &shape, element, filtered: !filters.is_empty(), plain_edges };
                let chunks = chunk.chunks(address, dims, chunk_indexing.as_ref())?;
                if self.file.is_undefined(address) { Storage::Absent } else { Storage::Chunked(chunks) }
            }
        };
        Ok(Dataset { path: self.about.to_owned(), shape, dtype, filters, storage, fill })
    }

    pub(super) fn dataspace(&self, data: &[u8]) -> Result<DataspaceMessage> {
        dataspace::parse(&mut Cursor::new(data), self.file.offset_size, self.file.length_size, data.len())
            .map_err(|error| self.translate(&error))
    }

    pub(super) fn dtype(&self, data: &[u8]) -> Result<Dtype> {
        let found = datatype::parse(&mut Cursor::new(data), data.len()).map_err(|error| self.translate(&error))?;
        let dtype = self.convert(&found.datatype)?;
        if dtype.bytes() == 0 || dtype.bytes() as u64 != u64::from(found.size) {
            return Err(self.format("a type whose parts do not have its size"));
        }
        Ok(dtype)
    }

    pub(super) fn convert(&self, datatype: &Datatype) -> Result<Dtype> {
        let reference = 8 + usize::from(self.file.offset_size);
        let big = |order: ByteOrder| order == ByteOrder::BigEndian;
        Ok(match datatype {
            Datatype::FixedPoint { size, signed, byte_order } => {
                Dtype::Integer(Integer { bytes: *size, signed: *signed, big_endian: big(*byte_order) })
            }
            Datatype::Bitfield { size, byte_order } => {
                Dtype::Integer(Integer { bytes: *size, signed: false, big_endian: big(*byte_order) })
            }
            Datatype::FloatingPoint { size, byte_order } => Dtype::Float { bytes: *size, big_endian: big(*byte_order) },
            Datatype::String { size: StringSize::Fixed(bytes), .. } => Dtype::Text { bytes: *bytes as usize },
            Datatype::String { size: StringSize::Variable, .. } | Datatype::VarLen { kind: VarLenKind::String, .. } => {
                Dtype::VlenText { bytes: reference }
            }
            Datatype::VarLen { kind: VarLenKind::Sequence, base, .. } => {
                Dtype::Vlen { bytes: reference, base: Box::new(self.convert(base)?) }
            }
            Datatype::VarLen { .. } => Dtype::Other { bytes: reference, name: "variable-length".to_owned() },
            Datatype::Enum { base, members } => match self.convert(base)? {
                Dtype::Integer(base) => {
                    let is = |member: &hdf5_reader::EnumMember, name: &str, value| {
                        member.name == name && decode_integer(&member.value, base) == Some(value)
                    };
                    let boolean = matches!(members.as_slice(), [a, b] if is(a, "FALSE", 0) && is(b, "TRUE", 1));
                    Dtype::Enum { base, boolean }
                }
                _ => return Err(self.format("an enumeration of something else than integers")),
            },
            Datatype::Array { base, dims } => {
                let array = Dtype::Array { shape: dims.clone(), base: Box::new(self.convert(base)?) };
                if array.bytes() > u32::MAX as usize {
                    return Err(self.format("an array type of more than 4 GiB"));
                }
                array
            }
            Datatype::Compound { size, fields } => {
                let bytes = *size as usize;
                let mut converted = Vec::with_capacity(fields.len());
                for field in fields {
                    let (offset, dtype) = (field.byte_offset as usize, self.convert(&field.datatype)?);
                    if offset.saturating_add(dtype.bytes()) > bytes {
                        return Err(self.format(format_args!("field `{}` does not fit into its compound", field.name)));
                    }
                    converted.push(Field { name: field.name.clone(), offset, dtype });
                }
                Dtype::Compound { bytes, fields: converted }
            }
            Datatype::Opaque { size, tag } => Dtype::Other { bytes: *size as usize, name: format!("opaque `{tag}`") },
            Datatype::Reference { size, .. } => Dtype::Other { bytes: usize::from(*size), name: "reference".to_owned() },
        })
    }

    /// The filter pipeline, specification IV.A.2.l.
    pub(super) fn filters(&self, data: &[u8]) -> Result<Vec<Filter>> {
        let what = "the filter pipeline";
        let mut fields = self.fields(data);
        let (version, count) = (fields.u8(), fields.u8().unwrap_or(0));
        let modern = match version {
            Some(1) => fields.take(6).is_none(),
            Some(2) => true,
            _ => return Err(self.unsupported(format_args!("filter pipeline of version {version:?}"))),
        };
        let mut filter = || {
            let id = fields.u16()?;
            let name_len = if modern && id < 256 { 0 } else { usize::from(fields.u16()?) };
            let (flags, values) = (fields.u16()?, fields.u16()?);
            let name = fields.take(if modern { name_len } else { name_len.next_multiple_of(8) })?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let values = (0..values).map(|_| fields.u32()).collect::<Option<Vec<u32>>>()?;
            if !modern && values.len() % 2 == 1 {
                fields.take(4)?;
            }
            let name = Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty());
            Some(Filter { id, name, optional: flags & 1 != 0, values })
        };
        (0..count).map(|_| filter().ok_or_else(|| self.cut(what))).collect()
    }
}
