//! `load_events`: a `LazyFrame` whose projection, predicate and row limit reach the decoder.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use polars_core::frame::DataFrame;
use polars_core::prelude::{AnyValue, DataType, Field, PolarsError, PolarsResult, Schema, SchemaRef, TimeUnit};
use polars_lazy::frame::{IntoLazy, LazyFrame, ScanArgsAnonymous};
use polars_plan::dsl::{Expr, Operator};
use polars_plan::plans::{AnonymousScan, AnonymousScanArgs, DynLiteralValue, LiteralValue};

use crate::error::{Error, Result};
use crate::recording::Recording;
use crate::schema::{Column, Columns, Polarity, Region, TimeRange};
use crate::selection::Selection;

/// The events of a recording as a Polars `LazyFrame`; reads only the head of the file.
///
/// Pushed into decoding: the columns that the query uses, `limit` directly on the scan, and conjunctions of
/// comparisons of a column with a literal. The predicate itself is always applied too.
///
/// Polars runs such a scan in its in-memory engine only, and takes its rows as one frame: what the query selects of
/// the events has to fit in memory. [`Recording::batches`] is the way to bounded memory.
///
/// # Errors
/// As [`Recording::open`]; errors of reading come with the query.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-load-{}.raw", std::process::id()));
/// # evlib::doc_recording(&path)?;
/// use polars_lazy::dsl::{col, lit};
/// let left = evlib::load_events(&path)?.filter(col("x").lt(lit(320))).collect()?;
/// assert_eq!(left.height(), 640);
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
pub fn load_events(path: impl AsRef<Path>) -> Result<LazyFrame> {
    let recording = Recording::open(path)?;
    let path = recording.path().to_path_buf();
    let arguments = ScanArgsAnonymous { schema: Some(schema()), name: "evlib", ..ScanArgsAnonymous::default() };
    LazyFrame::anonymous_scan(Arc::new(Scan(recording)), arguments).map_err(|error| Error::invalid(error.to_string()).with_path(&path))
}

fn schema() -> SchemaRef {
    let fields = Column::ALL.into_iter().map(|column| {
        let data_type = match column {
            Column::X | Column::Y => DataType::Int16,
            Column::Timestamp => DataType::Duration(TimeUnit::Microseconds),
            Column::Polarity => DataType::Int8,
        };
        Field::new(column.name().into(), data_type)
    });
    Arc::new(fields.collect::<Schema>())
}

struct Scan(Recording);

impl AnonymousScan for Scan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn scan(&self, query: AnonymousScanArgs) -> PolarsResult<DataFrame> {
        let mut bounds = Bounds::default();
        let rows = query.n_rows.map(|rows| rows as u64);
        // A row limit counts rows before the predicate.
        if let Some(predicate) = query.predicate.as_ref().filter(|_| rows.is_none()) {
            bounds.narrow_by(predicate);
        }
        let mut selection = bounds.selection();
        if let Some(names) = &query.with_columns {
            selection.columns = names.iter().map(|name| Column::from_name(name)).collect::<Result<Columns>>().map_err(error)?;
        }
        if let Some(rows) = rows {
            selection.limit = Some(selection.limit.map_or(rows, |limit| limit.min(rows)));
        }
        let frame = self.0.read(&selection).map_err(error)?.to_dataframe();
        let frame = match query.predicate {
            Some(predicate) => frame.lazy().filter(predicate).collect()?,
            None => frame,
        };
        // The engine relies on the order of the columns that it asks for.
        match (&query.output_schema, &query.with_columns) {
            (Some(schema), _) => frame.select(schema.iter_names_cloned()),
            (None, Some(names)) => frame.select(names.iter().cloned()),
            (None, None) => Ok(frame),
        }
    }

    fn allows_predicate_pushdown(&self) -> bool {
        true
    }

    fn allows_projection_pushdown(&self) -> bool {
        true
    }
}

fn error(error: Error) -> PolarsError {
    match error.io_error().map(std::io::Error::kind) {
        Some(kind) => PolarsError::from(std::io::Error::new(kind, error)),
        None => PolarsError::ComputeError(error.to_string().into()),
    }
}

/// Inclusive bounds of `x`, `y`, `timestamp` and `polarity` that every row of a query meets.
struct Bounds([(i64, i64); 4]);

impl Default for Bounds {
    fn default() -> Self {
        Self([(0, i16::MAX as i64), (0, i16::MAX as i64), (i64::MIN, i64::MAX), (-1, 1)])
    }
}

impl Bounds {
    /// Takes what a predicate surely demands; anything not understood changes nothing.
    fn narrow_by(&mut self, predicate: &Expr) {
        let Expr::BinaryExpr { left, op, right } = predicate else { return };
        if matches!(op, Operator::And | Operator::LogicalAnd) {
            self.narrow_by(left);
            self.narrow_by(right);
            return;
        }
        let (column, literal, op) = match (&**left, &**right) {
            (Expr::Column(name), Expr::Literal(literal)) => (name, literal, *op),
            (Expr::Literal(literal), Expr::Column(name)) => {
                let flipped = match op {
                    Operator::Lt => Operator::Gt,
                    Operator::LtEq => Operator::GtEq,
                    Operator::Gt => Operator::Lt,
                    Operator::GtEq => Operator::LtEq,
                    other => *other,
                };
                (name, literal, flipped)
            }
            _ => return,
        };
        let Ok(column) = Column::from_name(column) else { return };
        let Some(value) = value_of(literal, column) else { return };
        let (low, high) = match op {
            Operator::Eq => (value, value),
            Operator::Lt => (i64::MIN, value.saturating_sub(1)),
            Operator::LtEq => (i64::MIN, value),
            Operator::Gt => (value.saturating_add(1), i64::MAX),
            Operator::GtEq => (value, i64::MAX),
            _ => return,
        };
        let bounds = &mut self.0[column as usize];
        *bounds = (bounds.0.max(low), bounds.1.min(high));
    }

    fn selection(&self) -> Selection {
        let [x, y, t, p] = self.0;
        if [x, y, t, p].iter().any(|(low, high)| low > high) {
            return Selection::default().with_limit(0);
        }
        let mut selection = Selection::default();
        if [x, y] != [(0, i64::from(i16::MAX)); 2] {
            // Within 0..=32767, so that the differences are too.
            let [x0, x1, y0, y1] = [x.0, x.1, y.0, y.1].map(|bound| bound as i32);
            selection = selection.with_region(Region::new(x0, y0, x1 - x0 + 1, y1 - y0 + 1));
        }
        let start = (t.0 > i64::MIN).then_some(t.0);
        selection = selection.with_time_range(TimeRange::new(start, t.1.checked_add(1)));
        match p {
            (1, 1) => selection.with_polarity(Polarity::On),
            (-1, -1) => selection.with_polarity(Polarity::Off),
            _ => selection,
        }
    }
}

/// A literal as the decoder compares it with `column`; `None` for anything not plainly that.
fn value_of(literal: &LiteralValue, column: Column) -> Option<i64> {
    match literal {
        LiteralValue::Dyn(DynLiteralValue::Int(value)) if column != Column::Timestamp => i64::try_from(*value).ok(),
        LiteralValue::Scalar(scalar) => match (scalar.value(), column) {
            (AnyValue::Duration(value, TimeUnit::Microseconds), Column::Timestamp) => Some(*value),
            (AnyValue::Duration(value, TimeUnit::Milliseconds), Column::Timestamp) => value.checked_mul(1000),
            (_, Column::Timestamp) => None,
            (AnyValue::Int8(value), _) => Some((*value).into()),
            (AnyValue::Int16(value), _) => Some((*value).into()),
            (AnyValue::Int32(value), _) => Some((*value).into()),
            (AnyValue::Int64(value), _) => Some(*value),
            _ => None,
        },
        _ => None,
    }
}
