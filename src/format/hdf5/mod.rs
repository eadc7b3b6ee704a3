//! HDF5: the filters that chunks are stored through.
#![allow(dead_code)]

mod bitshuffle;
mod blosc;
mod blosclz;
mod ecf;
mod filter;
mod lz4;
mod lzf;
mod shuffle;
#[cfg(test)]
mod tests;
