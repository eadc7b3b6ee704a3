//! Compressed stretches whose size is known: LZ4 frames, Zstandard frames, bzip2 streams.

use std::cell::RefCell;

use zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective};

pub(crate) mod lz4;

/// Most bytes that a stretch may become: larger ones are taken for damage.
pub(crate) const LARGEST: usize = 512 << 20;

/// At the start of a Zstandard frame.
pub(crate) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// How a stretch is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    None,
    Bz2,
    Lz4,
    Zstd,
}

impl Codec {
    /// The codec of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "none" => Some(Self::None),
            "bz2" => Some(Self::Bz2),
            "lz4" => Some(Self::Lz4),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bz2 => "bz2",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Decompresses `bytes` into `out`, whose length is what they should become. Gives the bytes written, fewer where the
/// stretch is damaged or ends early.
pub(crate) fn decompress(codec: Codec, bytes: &[u8], out: &mut [u8]) -> usize {
    match codec {
        Codec::None => {
            let len = bytes.len().min(out.len());
            if let (Some(to), Some(from)) = (out.get_mut(..len), bytes.get(..len)) {
                to.copy_from_slice(from);
            }
            len
        }
        Codec::Bz2 => bunzip2(bytes, out),
        Codec::Lz4 => lz4::decode_frame(bytes, out).len,
        Codec::Zstd => unzstd(bytes, out),
    }
}

/// Bytes that a Zstandard frame says it becomes; `None` where it does not say, or cannot be true.
pub(crate) fn zstd_size(frame: &[u8]) -> Option<usize> {
    let size = zstd_safe::get_frame_content_size(frame).ok()??;
    usize::try_from(size).ok().filter(|size| *size <= LARGEST)
}

fn unzstd(bytes: &[u8], out: &mut [u8]) -> usize {
    thread_local!(static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create()));
    CONTEXT.with_borrow_mut(|context| {
        if context.reset(ResetDirective::SessionOnly).is_err() {
            return 0;
        }
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(out);
        loop {
            let before = (input.pos, output.pos());
            match context.decompress_stream(&mut output, &mut input) {
                Ok(hint) if hint > 0 && (input.pos, output.pos()) != before => {}
                _ => return output.pos(),
            }
        }
    })
}

fn bunzip2(bytes: &[u8], out: &mut [u8]) -> usize {
    let mut stream = bzip2::Decompress::new(false);
    loop {
        let before = (stream.total_in(), stream.total_out());
        let place = |total: u64| usize::try_from(total).unwrap_or(usize::MAX);
        let from = bytes.get(place(before.0)..).unwrap_or_default();
        let into = out.get_mut(place(before.1)..).unwrap_or_default();
        let status = stream.decompress(from, into);
        let after = (stream.total_in(), stream.total_out());
        if !matches!(status, Ok(bzip2::Status::Ok | bzip2::Status::MemNeeded)) || after == before {
            return place(after.1).min(out.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at / 7 * 31 % 251) as u8 ^ (at % 3) as u8).collect()
    }

    /// The sample by each codec.
    fn packed(bytes: &[u8]) -> [(Codec, Vec<u8>); 4] {
        let mut zstd = vec![0; zstd_safe::compress_bound(bytes.len())];
        let len = zstd_safe::compress(zstd.as_mut_slice(), bytes, 3).expect("room enough");
        zstd.truncate(len);
        let mut bz2 = Vec::with_capacity(bytes.len() * 2 + 1000);
        let mut stream = bzip2::Compress::new(bzip2::Compression::fast(), 30);
        stream.compress_vec(bytes, &mut bz2, bzip2::Action::Finish).expect("room enough");
        // A frame of stored blocks: magic; version 1, independent blocks; 4 MiB; checksum of these two bytes.
        let mut lz4 = vec![0x04, 0x22, 0x4D, 0x18, 0x60, 0x70, 0x73];
        lz4.extend((bytes.len() as u32 | 1 << 31).to_le_bytes());
        lz4.extend(bytes);
        lz4.extend([0; 4]);
        [(Codec::None, bytes.to_vec()), (Codec::Bz2, bz2), (Codec::Lz4, lz4), (Codec::Zstd, zstd)]
    }

    #[test]
    fn what_is_compressed_decompresses() {
        for len in [1, 15, 64, 65_536, 300_000] {
            let bytes = sample(len);
            for (codec, packed) in packed(&bytes) {
                let mut out = vec![0; len];
                assert_eq!(decompress(codec, &packed, &mut out), len, "{} {len}", codec.name());
                assert_eq!(out, bytes);
                assert_eq!(Codec::from_name(codec.name()), Some(codec));
            }
        }
    }

    #[test]
    fn what_ends_early_gives_its_start() {
        let bytes = sample(200_000);
        for (codec, packed) in packed(&bytes) {
            for len in (0..packed.len()).step_by(packed.len() / 50 + 1) {
                let mut out = vec![0; bytes.len()];
                let written = decompress(codec, &packed[..len], &mut out);
                assert_eq!(out[..written], bytes[..written], "{} {len}", codec.name());
                assert!(written < bytes.len() || len >= packed.len() - 12, "{} {len}", codec.name());
            }
        }
    }

    proptest! {
        #[test]
        fn damage_is_no_panic(at in 0_usize..2000, value: u8, len in 1_usize..5000, room in 0_usize..6000, noise: Vec<u8>) {
            for (codec, mut packed) in packed(&sample(len)) {
                let place = at % packed.len();
                packed[place] = value;
                let mut out = vec![0; room];
                assert!(decompress(codec, &packed, &mut out) <= room);
                packed.splice(4.min(packed.len()).., noise.iter().copied());
                assert!(decompress(codec, &packed, &mut out) <= room);
                let _any = zstd_size(&packed);
            }
        }
    }
}
