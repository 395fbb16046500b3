//! The group `dynos`: what a dyno's life takes.

mod idle;
mod sleep;
mod start;

use crate::Figure;

/// Measures all of it.
pub fn measure() -> Vec<Figure> {
    let mut figures = start::measure();
    figures.extend(sleep::measure());
    figures.extend(idle::measure());
    figures
}
