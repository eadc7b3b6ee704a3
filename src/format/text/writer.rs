//! Writes text: `t x y p` in seconds, or CSV in microseconds.

use std::path::Path;

use crate::schema::Geometry;
use crate::write::Encoder;

pub(crate) struct Writer {
    csv: bool,
}

impl Writer {
    /// CSV where `path` ends in `.csv`.
    pub(crate) fn new(path: &Path) -> Self {
        Self { csv: path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) }
    }
}

/// Appends `value` with at least `width` digits.
fn number(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    while value > 0 {
        first -= 1;
        digits[first] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend(&digits[first.min(digits.len() - width)..]);
}

impl Encoder for Writer {
    fn header(&self, _: Geometry, _: &str) -> Vec<u8> {
        if self.csv { b"t_us,x,y,p\n".to_vec() } else { Vec::new() }
    }

    fn start_of_time(&self) -> i64 {
        i64::MIN
    }

    fn end_of_time(&self) -> i64 {
        i64::MAX
    }

    fn in_any_order(&self) -> bool {
        true
    }

    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) {
        let separator = if self.csv { b',' } else { b' ' };
        for (((x, y), t), p) in x.iter().zip(y).zip(t).zip(p) {
            if *t < 0 {
                out.push(b'-');
            }
            let time = t.unsigned_abs();
            if self.csv {
                number(time, 1, out);
            } else {
                number(time / 1_000_000, 1, out);
                out.push(b'.');
                number(time % 1_000_000, 6, out);
            }
            out.push(separator);
            number(u64::from(x.unsigned_abs()), 1, out);
            out.push(separator);
            number(u64::from(y.unsigned_abs()), 1, out);
            out.extend([separator, if *p > 0 { b'1' } else { b'0' }, b'\n']);
        }
    }
}
