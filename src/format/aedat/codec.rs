//! Packet compression of AEDAT 4.0: LZ4 frames and Zstandard frames.

use std::cell::RefCell;

use zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::format::codec::{ZSTD_MAGIC, lz4};

/// Most bytes that a packet may become: larger ones are taken for damage.
pub(crate) const LARGEST: usize = 256 << 20;
/// Bytes of buffer that a thread keeps.
const KEEP: usize = 16 << 20;

/// Bytes of the default block of LZ4.
const BLOCK: usize = 64 << 10;

/// How packets are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    None,
    Lz4,
    Zstd,
}

impl Codec {
    /// The codec of a file by its header's number.
    pub(crate) fn from_header(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 | 2 => Some(Self::Lz4),
            3 | 4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The codec that these bytes look compressed with.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes.first_chunk::<4>() {
            Some(&lz4::MAGIC) => Self::Lz4,
            Some(&ZSTD_MAGIC) => Self::Zstd,
            _ => Self::None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Gives the decompressed packet to `work`; `None` where it is damaged.
pub(crate) fn with_decoded<R>(codec: Codec, bytes: &[u8], work: impl FnOnce(&[u8]) -> R) -> Option<R> {
    if codec == Codec::None {
        return Some(work(bytes));
    }
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    BUFFER.with(|buffer| {
        // Taken, not borrowed: `work` may decode more.
        let mut buffer = buffer.take();
        let len = match codec {
            Codec::Lz4 => unlz4(bytes, &mut buffer),
            _ => unzstd(bytes, &mut buffer),
        };
        let result = len.and_then(|len| buffer.get(..len)).map(work);
        buffer.truncate(KEEP);
        buffer.shrink_to(KEEP);
        BUFFER.with(|kept| kept.replace(buffer));
        result
    })
}

/// The decompressed packet; `None` where it is damaged.
pub(crate) fn decode(codec: Codec, bytes: &[u8]) -> Option<Vec<u8>> {
    with_decoded(codec, bytes, <[u8]>::to_vec)
}

/// Gives a buffer at least `len` bytes.
fn grow(out: &mut Vec<u8>, len: usize) {
    if out.len() < len {
        out.resize(len, 0);
    }
}

/// Decodes an LZ4 frame into the front of `out`.
fn unlz4(bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let claimed = content_size(Codec::Lz4, bytes).unwrap_or_else(|| bytes.len().saturating_mul(4));
    // A block of room more than needed: then the last block is decoded in place too.
    grow(out, claimed.min(bytes.len().saturating_mul(255)).min(LARGEST) + BLOCK);
    loop {
        let frame = lz4::decode_frame(bytes, out);
        if frame.is_whole || frame.len < out.len() || out.len() >= LARGEST + BLOCK {
            return frame.whole().filter(|len| *len <= LARGEST);
        }
        // The guess was too low: again from the start, in a larger place.
        grow(out, (4 * out.len()).min(LARGEST + BLOCK));
    }
}

/// Decodes Zstandard frames, one after the other, into the front of `out`; what follows them is padding.
fn unzstd(bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    thread_local!(static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create()));
    let claimed = content_size(Codec::Zstd, bytes).unwrap_or(0);
    grow(out, claimed.min(bytes.len().saturating_mul(64)).min(LARGEST).max(4 * bytes.len()).max(4096));
    CONTEXT.with_borrow_mut(|context| {
        context.reset(zstd_safe::ResetDirective::SessionOnly).ok()?;
        let mut input = InBuffer::around(bytes);
        let mut written = 0;
        loop {
            let mut output = OutBuffer::around_pos(out.as_mut_slice(), written);
            let hint = context.decompress_stream(&mut output, &mut input).ok()?;
            let before = std::mem::replace(&mut written, output.pos());
            if hint == 0 {
                if bytes.get(input.pos..).is_some_and(|rest| rest.starts_with(&ZSTD_MAGIC)) {
                    continue;
                }
                return Some(written);
            }
            if written == out.len() {
                if out.len() >= LARGEST {
                    return None;
                }
                grow(out, (2 * out.len()).min(LARGEST));
            } else if input.pos == bytes.len() && written == before {
                return None;
            }
        }
    })
}

/// Bytes of the header of a Zstandard frame, and of the checksum after its blocks.
///
/// <https://datatracker.ietf.org/doc/html/rfc8878#name-frame-header>
pub(crate) fn zstd_frame(bytes: &[u8]) -> Option<(u64, u64)> {
    let flags = *bytes.get(4)?;
    let single = flags >> 5 & 1;
    let window = u64::from(1 - single);
    let dictionary = [0, 1, 2, 4][usize::from(flags & 3)];
    let content = [u64::from(single), 2, 4, 8][usize::from(flags >> 6)];
    Some((5 + window + dictionary + content, u64::from(flags & 4)))
}

/// Bytes that a packet says it becomes; for Zstandard those of its first frame.
pub(crate) fn content_size(codec: Codec, bytes: &[u8]) -> Option<usize> {
    let size = match codec {
        Codec::None => bytes.len() as u64,
        Codec::Zstd => zstd_safe::get_frame_content_size(bytes).ok()??,
        // Flags, then the size where bit 3 says that there is one.
        Codec::Lz4 if bytes.get(4)? >> 3 & 1 == 1 => u64::from_le_bytes(*bytes.get(6..)?.first_chunk()?),
        Codec::Lz4 => return None,
    };
    usize::try_from(size).ok()
}

/// The first bytes of a packet, at least `wanted` unless it is damaged or shorter, from the first of its stored bytes.
///
/// For Zstandard none: it has no cheap start.
pub(crate) fn peek(codec: Codec, bytes: &[u8], wanted: usize) -> Vec<u8> {
    match codec {
        Codec::None => bytes.get(..wanted).unwrap_or(bytes).to_vec(),
        Codec::Lz4 => peek_lz4(bytes, wanted).unwrap_or_default(),
        Codec::Zstd => Vec::new(),
    }
}

/// The start of the first block of an LZ4 frame.
///
/// <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md> and `lz4_Block_format.md` beside it.
fn peek_lz4(bytes: &[u8], wanted: usize) -> Option<Vec<u8>> {
    let flags = *bytes.get(4)?;
    let header = 7 + if flags >> 3 & 1 == 1 { 8 } else { 0 } + if flags & 1 == 1 { 4 } else { 0 };
    let size = u32::from_le_bytes(*bytes.get(header..)?.first_chunk()?);
    let block = bytes.get(header + 4..)?;
    let block = block.get(..(size & 0x7FFF_FFFF) as usize).unwrap_or(block);
    if size >> 31 == 1 {
        return Some(block.get(..wanted).unwrap_or(block).to_vec());
    }
    let mut out: Vec<u8> = Vec::with_capacity(wanted + 64);
    let mut input = block.iter().copied();
    let long = |short: usize, input: &mut dyn Iterator<Item = u8>| {
        let mut len = short;
        if short == 15 {
            loop {
                let byte = input.next()?;
                len = len.checked_add(usize::from(byte))?;
                if byte != 255 {
                    break;
                }
            }
        }
        Some(len)
    };
    while out.len() < wanted {
        let Some(token) = input.next() else { break };
        let Some(literals) = long(usize::from(token >> 4), &mut input) else { break };
        out.extend(input.by_ref().take(literals.min(wanted)));
        let (Some(low), Some(high)) = (input.next(), input.next()) else { break };
        let distance = usize::from(u16::from_le_bytes([low, high]));
        let Some(matched) = long(usize::from(token & 15), &mut input) else { break };
        if distance == 0 || distance > out.len() {
            break;
        }
        for _ in 0..(matched + 4).min(wanted) {
            let byte = *out.get(out.len() - distance)?;
            out.push(byte);
        }
    }
    Some(out)
}

/// A packet as one LZ4 frame.
pub(crate) fn compress_lz4(bytes: &[u8], out: &mut Vec<u8>) {
    lz4::encode(bytes, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![0; zstd_safe::compress_bound(bytes.len())];
        let len = zstd_safe::compress(out.as_mut_slice(), bytes, 3).expect("room enough");
        out.truncate(len);
        out
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress_lz4(bytes, &mut out);
        out
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at / 7 * 31 % 251) as u8 ^ (at % 3) as u8).collect()
    }

    #[test]
    fn what_is_compressed_decodes() {
        for len in [0, 1, 15, 64, 65_535, 65_536, 65_537, 300_000] {
            let bytes = sample(len);
            assert_eq!(decode(Codec::Lz4, &lz4(&bytes)).as_deref(), Some(bytes.as_slice()), "{len}");
            assert_eq!(decode(Codec::Zstd, &zstd(&bytes)).as_deref(), Some(bytes.as_slice()), "{len}");
            let start = peek(Codec::Lz4, &lz4(&bytes), 48);
            assert!(start.len() >= len.min(48) && bytes.starts_with(&start[..len.min(48)]), "{len}");
        }
        assert_eq!((Codec::of(&lz4(b"x")), Codec::of(&zstd(b"x")), Codec::of(b"x")), (Codec::Lz4, Codec::Zstd, Codec::None));
    }

    #[test]
    fn frames_that_end_early_are_damaged() {
        let bytes = sample(100_000);
        for (codec, packed) in [(Codec::Lz4, lz4(&bytes)), (Codec::Zstd, zstd(&bytes))] {
            for len in (0..packed.len()).step_by(97) {
                assert_eq!(decode(codec, &packed[..len]), None, "{} {len}", codec.name());
            }
        }
    }

    #[test]
    fn frames_follow_each_other() {
        let bytes = sample(300_000);
        let mut packed = [zstd(&bytes[..70]), zstd(b""), zstd(&bytes[70..])].concat();
        assert_eq!(decode(Codec::Zstd, &packed).as_deref(), Some(bytes.as_slice()));
        packed.extend([0; 9]);
        assert_eq!(decode(Codec::Zstd, &packed).as_deref(), Some(bytes.as_slice()));
        packed.truncate(packed.len() - 10);
        assert_eq!(decode(Codec::Zstd, &packed), None);
    }

    #[test]
    fn a_bomb_is_refused() {
        let zeros = vec![0; LARGEST + 1];
        assert_eq!(decode(Codec::Zstd, &zstd(&zeros)), None);
    }

    proptest! {
        #[test]
        fn damage_is_no_panic(at in 0_usize..2000, value: u8, len in 0_usize..5000, noise: Vec<u8>) {
            let bytes = sample(len);
            for (codec, mut packed) in [(Codec::Lz4, lz4(&bytes)), (Codec::Zstd, zstd(&bytes))] {
                let place = at % packed.len();
                packed[place] = value;
                let _any = (decode(codec, &packed), peek(codec, &packed, 64), content_size(codec, &packed), decode(codec, &noise));
                packed.splice(7.min(packed.len()).., noise.iter().copied());
                let _any = (decode(codec, &packed), peek(codec, &packed, 64));
            }
        }
    }
}
