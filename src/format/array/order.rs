//! The order of the columns of a table, told by their values: times grow, polarities have two values, and of the other
//! two columns x comes first.

use crate::schema::Column;

/// Values from the start of a column, as integers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample<'a> {
    pub(crate) values: &'a [i64],
    /// What stands for 1.
    pub(crate) one: i64,
}

/// Why the order cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unclear {
    NoTime,
    NoPolarity,
    Several,
}

impl Unclear {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NoTime => "no column grows as times do",
            Self::NoPolarity => "no column has two values as polarities do",
            Self::Several => "several columns could be the times or the polarities",
        }
    }
}

/// Places of times and polarities in the tables of public data sets.
const KNOWN: [(usize, usize); 3] = [(0, 3), (2, 3), (3, 2)];

impl Sample<'_> {
    /// Whether the values grow; a sample with one step back in `patience` rows still does.
    fn grows(self, patience: usize) -> bool {
        let back = self.values.windows(2).filter(|pair| matches!(pair, [a, b] if b < a)).count();
        self.values.first() < self.values.last() && back.saturating_mul(patience) <= self.values.len()
    }

    /// Whether the values are two of -1, 0 and 1, or one of them.
    fn is_two_valued(self) -> bool {
        let has = |value: i64| self.values.contains(&value);
        let known = self.values.iter().all(|value| [-self.one, 0, self.one].contains(value));
        known && !(has(-self.one) && has(0) && has(self.one))
    }

    /// Whether some of the values cannot be pixels.
    fn is_no_pixel(self) -> bool {
        const LARGEST: i64 = 1 << 14;
        self.values.iter().any(|value| !(0..LARGEST.saturating_mul(self.one)).contains(value) || value % self.one != 0)
    }
}

/// The columns of a table of four in their order.
pub(crate) fn tell(columns: [Sample<'_>; 4]) -> Result<[Column; 4], Unclear> {
    if columns.iter().all(|column| column.values.is_empty()) {
        return Ok(with(0, 3));
    }
    let polarities: Vec<usize> = (0..4).filter(|at| columns[*at].is_two_valued()).collect();
    if polarities.is_empty() {
        return Err(Unclear::NoPolarity);
    }
    // Times in order come first; then those with a few steps back.
    for patience in [usize::MAX, 10] {
        let times = (0..4).filter(|at| columns[*at].grows(patience));
        let mut found: Vec<(usize, usize)> =
            times.flat_map(|t| polarities.iter().filter(move |p| **p != t).map(move |p| (t, *p))).collect();
        narrow(&mut found, |place| KNOWN.contains(place));
        narrow(&mut found, |(t, _)| columns[*t].is_no_pixel());
        match found.as_slice() {
            [] => {}
            [(t, p)] => return Ok(with(*t, *p)),
            _ => return Err(Unclear::Several),
        }
    }
    Err(Unclear::NoTime)
}

/// Keeps what fits, if anything does.
fn narrow<T>(found: &mut Vec<T>, fits: impl Fn(&T) -> bool) {
    if found.iter().any(&fits) {
        found.retain(fits);
    }
}

/// The order with times at `t`, polarities at `p` and x before y.
pub(crate) fn with(t: usize, p: usize) -> [Column; 4] {
    let mut pixels = [Column::X, Column::Y].into_iter();
    std::array::from_fn(|at| match at {
        at if at == t => Column::Timestamp,
        at if at == p => Column::Polarity,
        _ => pixels.next().unwrap_or(Column::Y),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: &[i64] = &[5, 5, 70, 80, 90_000];
    const X: &[i64] = &[30, 2, 600, 7, 9];
    const Y: &[i64] = &[3, 20, 6, 70, 1];
    const P: &[i64] = &[0, 1, 0, 0, 1];

    fn tell_of(columns: [&[i64]; 4], one: i64) -> Result<[Column; 4], Unclear> {
        tell(columns.map(|values| Sample { values, one }))
    }

    #[test]
    fn known_orders() {
        assert_eq!(tell_of([T, X, Y, P], 1), Ok(with(0, 3)));
        assert_eq!(tell_of([X, Y, T, P], 1), Ok(with(2, 3)));
        assert_eq!(tell_of([X, Y, P, T], 1), Ok(with(3, 2)));
        assert_eq!(tell_of([P, T, X, Y], 1), Ok(with(1, 0)));
        assert_eq!(tell_of([&[], &[], &[], &[]], 1), Ok(with(0, 3)));
    }

    #[test]
    fn two_columns_that_grow() {
        // The table order decides, then what cannot be a pixel.
        assert_eq!(tell_of([T, X, &[1, 2, 3, 4, 5], P], 1), Ok(with(0, 3)));
        assert_eq!(tell_of([&[1, 2, 3, 4, 5], Y, T, P], 1), Ok(with(2, 3)));
        assert_eq!(tell_of([&[1, 2, 3, 4, 5], Y, &[1, 2, 3, 4, 9], P], 1), Err(Unclear::Several));
        // Seconds with fractions are no pixels.
        let (x, t) = ([1_000_000, 2_000_000, 3_000_000], [10, 20, 30]);
        assert_eq!(tell_of([&x, &[5_000_000, 4_000_000, 7_000_000], &t, &[0, 0, 1_000_000]], 1_000_000), Ok(with(2, 3)));
    }

    #[test]
    fn what_cannot_be_told() {
        assert_eq!(tell_of([X, Y, X, P], 1), Err(Unclear::NoTime));
        assert_eq!(tell_of([T, X, Y, X], 1), Err(Unclear::NoPolarity));
        assert_eq!(tell_of([&[1], &[2], &[3], &[1]], 1), Err(Unclear::NoTime));
    }

    proptest! {
        #[test]
        fn a_few_steps_back_are_times(mut times in proptest::collection::vec(1_000_000_i64..9_000_000, 40..80), swap in 1_usize..39) {
            times.sort_unstable();
            times.swap(swap - 1, swap);
            let other: Vec<i64> = times.iter().map(|t| t * 7919 % 640).collect();
            let p: Vec<i64> = times.iter().map(|t| t % 2).collect();
            prop_assume!(times.first() < times.last());
            prop_assert_eq!(tell_of([&other, &other, &times, &p], 1), Ok(with(2, 3)));
        }
    }
}
