//! HDF5: what a file holds and where its chunks lie.
#![allow(dead_code)] // Its readers are not written yet.

mod meta;
