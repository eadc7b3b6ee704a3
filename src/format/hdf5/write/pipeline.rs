//! Chunks on their way into the file: encoded in parallel, written in order by whichever thread comes first.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::file::{Chunks, File};
use crate::error::Result;
use crate::format::hdf5::filter::{Decoder, Encoder};

/// Rows that are encoded together: several chunks of every layout, so that all threads have some.
pub(super) const GROUP: usize = 1 << 19;

/// What a thread encodes with.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    /// The chunk as it is before it is encoded.
    pub(super) plain: Vec<u8>,
}

/// Encoded chunks of several data sets.
#[derive(Default)]
pub(super) struct Pipeline {
    workers: Mutex<Vec<Worker>>,
    /// Data set and bytes of chunks that are encoded but not written.
    done: Vec<(usize, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Pipeline {
    /// Encodes a chunk of a data set from each job, while what was encoded before is written.
    pub(super) fn run<J: Send>(
        &mut self,
        file: &mut File,
        datasets: &mut [Chunks],
        jobs: Vec<(usize, J)>,
        encode: impl Fn(J, &mut Worker, &mut Vec<u8>) -> Result<()> + Sync,
    ) -> Result<()> {
        let workers = &self.workers;
        let done = std::mem::take(&mut self.done);
        let mut spare = std::mem::take(&mut self.spare);
        let jobs: Vec<_> = jobs.into_iter().map(|(dataset, job)| (dataset, job, spare.pop().unwrap_or_default())).collect();
        let encode = |(dataset, job, mut out): (usize, J, Vec<u8>)| {
            let lock = || workers.lock().unwrap_or_else(PoisonError::into_inner);
            let mut worker = lock().pop().unwrap_or_default();
            out.clear();
            let result = encode(job, &mut worker, &mut out);
            lock().push(worker);
            result.map(|()| (dataset, out))
        };
        let write = || done.iter().try_for_each(|(dataset, bytes)| write(file, datasets, *dataset, bytes));
        // One job at a time: they are few, and some take far longer than others.
        let (written, encoded) = rayon::join(write, || jobs.into_par_iter().with_max_len(1).map(encode).collect::<Result<Vec<_>>>());
        written?;
        self.done = encoded?;
        spare.extend(done.into_iter().map(|(_, bytes)| bytes));
        self.spare = spare;
        Ok(())
    }

    /// Writes all that is encoded.
    pub(super) fn flush(&mut self, file: &mut File, datasets: &mut [Chunks]) -> Result<()> {
        for (dataset, bytes) in self.done.drain(..) {
            write(file, datasets, dataset, &bytes)?;
            self.spare.push(bytes);
        }
        Ok(())
    }
}

fn write(file: &mut File, datasets: &mut [Chunks], dataset: usize, bytes: &[u8]) -> Result<()> {
    match datasets.get_mut(dataset) {
        Some(chunks) => file.append_chunk(chunks, bytes),
        None => unreachable!("jobs name data sets that there are"),
    }
}
