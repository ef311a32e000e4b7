//! What was measured, and whether it is good enough.

use std::fmt;

use serde::Serialize;

/// The middle one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (_, _) if values.is_empty() => f64::NAN,
        (half, 0) => f64::midpoint(values[half - 1], values[half]),
        (half, _) => values[half],
    }
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) bound: Option<Bound>,
    pub(crate) reached: Option<bool>,
}

/// Everything in the order it was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// A measured value.
    pub(crate) fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        let figure = Figure { name: name.into(), value, unit, bound: None, reached: None };
        eprintln!("{figure}");
        self.figures.push(figure);
    }

    /// A figure with something to reach.
    pub(crate) fn judge(&mut self, name: impl Into<String>, value: f64, unit: &'static str, bound: Bound) {
        let reached = Some(bound.holds(value));
        let figure = Figure { name: name.into(), value, unit, bound: Some(bound), reached };
        eprintln!("{figure}");
        self.figures.push(figure);
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.value.abs() >= 1000.0 { 0 } else { 2 };
        write!(f, "{:<58} {:>12.digits$} {:<6}", self.name, self.value, self.unit)?;
        let (sign, bound) = match self.bound {
            None => return Ok(()),
            Some(Bound::AtLeast(bound)) => ('≥', bound),
            Some(Bound::AtMost(bound)) => ('≤', bound),
        };
        let verdict = if self.reached == Some(true) { "reached" } else { "NOT REACHED" };
        write!(f, " {sign} {bound:<8} {verdict}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.figures.iter().try_for_each(|figure| writeln!(f, "{figure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!(median([]).is_nan());
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn bounds_include_themselves() {
        assert!(Bound::AtLeast(8.0).holds(8.0) && !Bound::AtLeast(8.0).holds(7.9));
        assert!(Bound::AtMost(2.0).holds(2.0) && !Bound::AtMost(2.0).holds(f64::NAN));
    }
}
