//! LZ4 frames, through the C library: the one part of AEDAT that calls it by address and length.
//!
//! Frames may have linked blocks, checksums and a content size; all of it is the library's business.
#![expect(unsafe_code, reason = "the C library is called by its address-and-length interface")]

use std::cell::RefCell;
use std::ptr;

use lz4_sys::{
    BlockChecksum, BlockMode, BlockSize, ContentChecksum, FrameType, LZ4F_compressBegin, LZ4F_compressBound, LZ4F_compressEnd,
    LZ4F_compressUpdate, LZ4F_createCompressionContext, LZ4F_createDecompressionContext, LZ4F_decompress, LZ4F_freeCompressionContext,
    LZ4F_freeDecompressionContext, LZ4F_isError, LZ4F_resetDecompressionContext, LZ4FCompressionContext, LZ4FDecompressOptions,
    LZ4FDecompressionContext, LZ4FFrameInfo, LZ4FPreferences,
};

use super::{LARGEST, content_size, grow};

/// Version of the library's frame interface.
const VERSION: u32 = 100;
/// Bytes of the default block.
const BLOCK: usize = 64 << 10;

fn failed(code: usize) -> bool {
    // SAFETY: only looks at the number.
    unsafe { LZ4F_isError(code) != 0 }
}

/// A decompression context of the library's.
struct Decoder(LZ4FDecompressionContext);

impl Decoder {
    fn new() -> Option<Self> {
        let mut context = LZ4FDecompressionContext(ptr::null_mut());
        // SAFETY: `context` is a place for the pointer that the function writes.
        let code = unsafe { LZ4F_createDecompressionContext(&mut context, VERSION) };
        (!failed(code) && !context.0.is_null()).then_some(Self(context))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: made by `LZ4F_createDecompressionContext`, not null, and used no more.
        unsafe { LZ4F_freeDecompressionContext(self.0) };
    }
}

/// Decodes one frame into the front of `out`; `None` where it is damaged, ends early or is too large.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    thread_local!(static DECODER: RefCell<Option<Decoder>> = const { RefCell::new(None) });
    DECODER.with_borrow_mut(|decoder| {
        if decoder.is_none() {
            *decoder = Decoder::new();
        }
        let decoder = decoder.as_ref()?;
        let claimed = content_size(super::Codec::Lz4, bytes).unwrap_or_else(|| bytes.len().saturating_mul(4));
        // A block of room more than needed: then the last block is decoded in place too.
        grow(out, claimed.min(bytes.len().saturating_mul(255)).min(LARGEST) + BLOCK);
        // SAFETY: the context is valid; whatever a damaged frame left in it is dropped.
        unsafe { LZ4F_resetDecompressionContext(decoder.0) };
        // What has been decoded is looked back at where it stands, unless `out` has moved since.
        let mut options = LZ4FDecompressOptions { stable_dst: 1, reserved: [0; 3] };
        let (mut read, mut written) = (0, 0);
        loop {
            let (from, into) = (bytes.get(read..)?, out.get_mut(written..)?);
            let (mut from_len, mut into_len) = (from.len(), into.len());
            // SAFETY: source and destination are valid for the lengths given with them, which the function never
            // exceeds whatever the bytes are, and are written back as what it used. With `stable_dst` it reads what
            // it has decoded of this frame before, which is still there: `out` is not moved after a call that had it
            // set (see below), nor its front written to.
            let hint =
                unsafe { LZ4F_decompress(decoder.0, into.as_mut_ptr(), &mut into_len, from.as_ptr(), &mut from_len, &raw const options) };
            if failed(hint) {
                return None;
            }
            read += from_len;
            written += into_len;
            if hint == 0 {
                return (written <= LARGEST).then_some(written);
            }
            if written == out.len() {
                if written >= LARGEST {
                    return None;
                }
                if options.stable_dst == 1 {
                    // The guess was too low. Start again in a larger place, and let the library keep its own copy of
                    // what it looks back at from now on.
                    options.stable_dst = 0;
                    (read, written) = (0, 0);
                    // SAFETY: as above.
                    unsafe { LZ4F_resetDecompressionContext(decoder.0) };
                }
                grow(out, (4 * out.len()).min(LARGEST + BLOCK));
            } else if from_len == 0 && into_len == 0 {
                return None;
            }
        }
    })
}

/// A compression context of the library's.
struct Encoder(LZ4FCompressionContext);

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: made by `LZ4F_createCompressionContext`, not null, and used no more.
        unsafe { LZ4F_freeCompressionContext(self.0) };
    }
}

/// Appends `bytes` as one frame.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    /// A frame of stored blocks: what is left where the library refuses, for lack of memory.
    fn stored(bytes: &[u8], out: &mut Vec<u8>) {
        // Magic; version 1 and independent blocks; blocks of up to 4 MiB; checksum of these two bytes.
        out.extend([0x04, 0x22, 0x4D, 0x18, 0x60, 0x70, 0x73]);
        for block in bytes.chunks(4 << 20) {
            out.extend((block.len() as u32 | 1 << 31).to_le_bytes());
            out.extend(block);
        }
        out.extend([0; 4]);
    }
    let start = out.len();
    if try_encode(bytes, out).is_none() {
        out.truncate(start);
        stored(bytes, out);
    }
}

fn try_encode(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut context = LZ4FCompressionContext(ptr::null_mut());
    // SAFETY: `context` is a place for the pointer that the function writes.
    let code = unsafe { LZ4F_createCompressionContext(&mut context, VERSION) };
    if failed(code) || context.0.is_null() {
        return None;
    }
    let encoder = Encoder(context);
    let preferences = LZ4FPreferences {
        frame_info: LZ4FFrameInfo {
            block_size_id: BlockSize::Max64KB,
            block_mode: BlockMode::Linked,
            content_checksum_flag: ContentChecksum::NoChecksum,
            frame_type: FrameType::Frame,
            content_size: 0,
            dict_id: 0,
            block_checksum_flag: BlockChecksum::NoBlockChecksum,
        },
        compression_level: 0,
        auto_flush: 1,
        favor_dec_speed: 0,
        reserved: [0; 3],
    };
    // SAFETY: only looks at its arguments.
    let bound = unsafe { LZ4F_compressBound(bytes.len(), &raw const preferences) };
    let start = out.len();
    // A frame header has at most 19 bytes.
    out.resize(start.checked_add(bound)?.checked_add(64)?, 0);
    let room = out.get_mut(start..)?;
    let mut len = 0;
    // SAFETY: each destination is valid for the length given with it, the source for its own; the context is valid.
    unsafe {
        for step in 0..3 {
            let into = room.get_mut(len..)?;
            let (pointer, room) = (into.as_mut_ptr(), into.len());
            let code = match step {
                0 => LZ4F_compressBegin(encoder.0, pointer, room, &raw const preferences),
                1 => LZ4F_compressUpdate(encoder.0, pointer, room, bytes.as_ptr(), bytes.len(), ptr::null()),
                _ => LZ4F_compressEnd(encoder.0, pointer, room, ptr::null()),
            };
            if failed(code) {
                return None;
            }
            len += code;
        }
    }
    out.truncate(start + len);
    Some(())
}
