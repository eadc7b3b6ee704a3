//! The names that the columns of events go by.

use crate::schema::Column;

/// Names that the columns of events go by.
pub(crate) const NAMES: [(Column, &[&str]); 4] = [
    (Column::X, &["x", "xs"]),
    (Column::Y, &["y", "ys"]),
    (Column::Timestamp, &["t", "ts", "timestamp", "timestamps"]),
    (Column::Polarity, &["p", "ps", "pol", "polarity", "polarities", "on"]),
];

/// The column that goes by this name.
pub(crate) fn column(name: &str) -> Option<Column> {
    let plain = name.to_ascii_lowercase();
    NAMES.iter().find(|(_, names)| names.contains(&plain.as_str())).map(|(column, _)| *column)
}
