//! The hot parts of Stream's ingestion path.
//!
//! Each has a twin in Python, which has the last word: what is unusual is left to it, and tests
//! hold the two against each other. Where this module isn't built, the twins do all the work.

use pyo3::prelude::*;

pub mod body;
pub mod connections;
pub mod csv;
pub mod disk;
pub mod fair;
pub mod json;
pub mod lookup;
pub mod otlp;
pub mod row;
pub mod scan;
pub mod split;
pub mod typed;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<row::RowPlan>()?;
    module.add_class::<lookup::JsonPaths>()?;
    module.add_class::<body::Body>()?;
    module.add_class::<otlp::LogExport>()?;
    module.add_class::<connections::Connections>()?;
    module.add_class::<connections::Waiting>()?;
    module.add_class::<disk::DiskThread>()?;
    module.add_function(wrap_pyfunction!(csv::count_rows, module)?)?;
    module.add_function(wrap_pyfunction!(lookup::json_text, module)?)?;
    module.add_function(wrap_pyfunction!(split::split_json, module)?)?;
    module.add_function(wrap_pyfunction!(typed::json_fault, module)?)?;
    Ok(())
}
