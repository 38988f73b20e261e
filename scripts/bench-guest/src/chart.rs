//! Charts as SVG: bars on a logarithmic scale for the ladder, curves for the sweeps.
//!
//! Legible on light and dark pages: everything is drawn in a few named inks, and a style sheet in the
//! file exchanges them where the reader prefers a dark page. Fonts are the reader's own (sans-serif).

use std::fmt::Write;

use anyhow::{Result, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// An ink on light and on dark paper.
struct Ink {
    light: RGBColor,
    dark: RGBColor,
}

const PAPER: Ink = ink(0xff_ff_ff, 0x0d_11_17);
const TEXT: Ink = ink(0x1f_23_28, 0xe6_ed_f3);
const QUIET: Ink = ink(0x65_6d_76, 0x8d_96_a0);
const GRID: Ink = ink(0xd8_de_e4, 0x30_36_3d);
/// Series in their order. Not told apart by red and green.
const SERIES: [Ink; 4] = [
    ink(0x09_69_da, 0x58_a6_ff),
    ink(0xbc_4c_00, 0xf0_88_3e),
    ink(0x82_50_df, 0xbc_8c_ff),
    ink(0x1b_7c_83, 0x39_c5_cf),
];
/// A bar of something that is not ours.
const FOREIGN: Ink = ink(0x6e_77_81, 0x76_83_90);

const WIDTH: u32 = 860;
const CURVES_HEIGHT: u32 = 440;
/// From one bar to the next.
const BAR_PITCH: u32 = 40;
const BAR_THICKNESS: i32 = 24;
/// Room for the names at the left, for title and axis.
const NAMES_WIDTH: u32 = 190;
const NOTE_CHAR_WIDTH: i32 = 7;
const HEAD: u32 = 64;
const FOOT: u32 = 46;

const fn ink(light: u32, dark: u32) -> Ink {
    const fn rgb(word: u32) -> RGBColor {
        let [_, r, g, b] = word.to_be_bytes();
        RGBColor(r, g, b)
    }
    Ink { light: rgb(light), dark: rgb(dark) }
}

fn hex(color: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Its name, at the left.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// What is written at its end.
    pub note: String,
    /// Not ours: drawn in grey.
    pub foreign: bool,
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Its name, for the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// Where the names of curves stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legend {
    UpperLeft,
    UpperRight,
    LowerRight,
}

/// What is written around a chart.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// The heading.
    pub title: &'a str,
    /// Below it: machine, conditions.
    pub subtitle: &'a str,
    /// Along the horizontal axis.
    pub x: &'a str,
    /// Along the vertical axis (bars have none).
    pub y: &'a str,
    /// Where the names of curves stand (bars have their own).
    pub legend: Legend,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn font(size: u32, ink: &Ink) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&ink.light)
}

fn head(area: &Area<'_>, words: &Words<'_>) -> Result<()> {
    area.fill(&PAPER.light)?;
    area.draw_text(words.title, &font(22, &TEXT), (16, 14))?;
    area.draw_text(words.subtitle, &font(14, &QUIET), (16, 40))?;
    Ok(())
}

/// The powers of ten around all values.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, 0.0f64);
    for value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    // A bar has some length even if it is the shortest, and its note has room to the right.
    (10f64.powf((low / 1.5).log10().floor()), high * 12.0)
}

fn tick(value: &f64) -> String {
    match *value {
        v if v >= 1.0 => format!("{v:.0}"),
        v => format!("{v}"),
    }
}

/// Horizontal bars on a logarithmic scale, in the given order from the top.
pub fn bars(words: &Words<'_>, bars: &[Bar]) -> Result<String> {
    ensure!(!bars.is_empty(), "no bars to draw");
    ensure!(
        bars.iter().all(|bar| bar.value > 0.0 && bar.value.is_finite()),
        "a bar without a length"
    );
    let rows = bars.len() as u32;
    let size = (WIDTH, HEAD + rows * BAR_PITCH + FOOT);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        head(&area, words)?;
        let (low, high) = decades(bars.iter().map(|bar| bar.value));
        let mut chart = ChartBuilder::on(&area)
            .margin_top(HEAD)
            .margin_right(20)
            .x_label_area_size(FOOT)
            .y_label_area_size(NAMES_WIDTH)
            .build_cartesian_2d((low..high).log_scale(), f64::from(rows)..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .bold_line_style(GRID.light)
            .light_line_style(PAPER.light)
            .axis_style(GRID.light)
            .x_labels(6)
            .x_label_formatter(&tick)
            .x_desc(words.x)
            .label_style(font(14, &QUIET))
            .axis_desc_style(font(14, &QUIET))
            .draw()?;
        let name = font(15, &TEXT).pos(Pos::new(HPos::Right, VPos::Center));
        let note = font(15, &TEXT).pos(Pos::new(HPos::Left, VPos::Center));
        for (row, bar) in bars.iter().enumerate() {
            let middle = row as f64 + 0.5;
            let (left, y) = chart.backend_coord(&(low, middle));
            let (right, _) = chart.backend_coord(&(bar.value, middle));
            let ink = if bar.foreign { &FOREIGN } else { &SERIES[0] };
            let half = BAR_THICKNESS / 2;
            area.draw(&Rectangle::new([(left, y - half), (right, y + half)], ink.light.filled()))?;
            area.draw_text(&bar.label, &name, (left - 10, y))?;
            // The grid does not run through what is written.
            let end = right + 10 + NOTE_CHAR_WIDTH * bar.note.chars().count() as i32;
            area.draw(&Rectangle::new([(right + 5, y - 9), (end, y + 9)], PAPER.light.filled()))?;
            area.draw_text(&bar.note, &note, (right + 8, y))?;
        }
        area.present()?;
    }
    finish(&svg, words)
}

/// Curves over a linear axis from zero.
pub fn curves(words: &Words<'_>, curves: &[Curve]) -> Result<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    ensure!(points().next().is_some(), "no points to draw");
    ensure!(points().all(|(x, y)| x.is_finite() && y.is_finite()), "a point that is nowhere");
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, CURVES_HEIGHT)).into_drawing_area();
        head(&area, words)?;
        let right = points().fold(0.0f64, |most, point| most.max(point.0)) * 1.03;
        let top = points().fold(0.0f64, |most, point| most.max(point.1)) * 1.12;
        let mut chart = ChartBuilder::on(&area)
            .margin_top(HEAD)
            .margin_right(24)
            .margin_left(16)
            .x_label_area_size(FOOT)
            .y_label_area_size(64)
            .build_cartesian_2d(
                0.0..right.max(f64::MIN_POSITIVE),
                0.0..top.max(f64::MIN_POSITIVE),
            )?;
        chart
            .configure_mesh()
            .bold_line_style(GRID.light)
            .light_line_style(PAPER.light)
            .axis_style(GRID.light)
            .x_label_formatter(&short)
            .y_label_formatter(&short)
            .x_desc(words.x)
            .y_desc(words.y)
            .label_style(font(14, &QUIET))
            .axis_desc_style(font(14, &QUIET))
            .draw()?;
        for (curve, ink) in curves.iter().zip(SERIES.iter().cycle()) {
            let color = ink.light;
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
                .label(&curve.name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 2), (x + 18, y + 1)], color.filled())
                });
            let dots = curve.points.iter().map(|&point| Circle::new(point, 4, color.filled()));
            chart.draw_series(dots)?;
        }
        chart
            .configure_series_labels()
            .position(match words.legend {
                Legend::UpperLeft => SeriesLabelPosition::UpperLeft,
                Legend::UpperRight => SeriesLabelPosition::UpperRight,
                Legend::LowerRight => SeriesLabelPosition::LowerRight,
            })
            .background_style(PAPER.light)
            .border_style(GRID.light)
            .label_font(font(15, &TEXT))
            .draw()?;
        area.present()?;
    }
    finish(&svg, words)
}

fn short(value: &f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Adds what plotters cannot: a title for those who do not see the picture, and the dark inks.
fn finish(svg: &str, words: &Words<'_>) -> Result<String> {
    let Some((opening, rest)) = svg.split_once('>') else {
        anyhow::bail!("plotters made no SVG");
    };
    let mut style = String::from("@media (prefers-color-scheme: dark) {");
    for ink in [&PAPER, &TEXT, &QUIET, &GRID, &FOREIGN].into_iter().chain(&SERIES) {
        let (light, dark) = (hex(ink.light), hex(ink.dark));
        for property in ["fill", "stroke"] {
            write!(style, " [{property}=\"{light}\"] {{ {property}: {dark} }}")?;
        }
    }
    style.push_str(" }");
    let title = escape(words.title);
    Ok(format!("{opening} role=\"img\">\n<title>{title}</title>\n<style>{style}</style>{rest}"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    const WORDS: Words<'_> = Words {
        title: "a < b & c",
        subtitle: "<here>",
        x: "Mpps",
        y: "\"y\"",
        legend: Legend::UpperRight,
    };

    fn bar(label: &str, value: f64) -> Bar {
        Bar {
            label: label.into(),
            value,
            note: format!("{value} & more"),
            foreign: label == "QEMU",
        }
    }

    fn texts(document: &Document<'_>) -> String {
        document.descendants().filter_map(|node| node.text()).collect::<Vec<_>>().join("|")
    }

    /// Widths of the rectangles in an ink, in their order.
    fn widths(document: &Document<'_>, ink: &Ink) -> Vec<f64> {
        document
            .descendants()
            .filter(|node| node.has_tag_name("rect") || node.tag_name().name() == "rect")
            .filter(|node| node.attribute("fill") == Some(&hex(ink.light)))
            .map(|node| node.attribute("width").and_then(|w| w.parse().ok()).expect("a width"))
            .collect()
    }

    #[test]
    fn bars_are_xml_with_one_bar_per_row_and_longer_for_more() {
        let rows = [bar("plain", 0.046), bar("<both>", 0.6), bar("top", 39.0), bar("QEMU", 0.1)];
        let svg = bars(&WORDS, &rows).expect("drawn");
        let document = Document::parse(&svg).expect("well-formed");
        let ours = widths(&document, &SERIES[0]);
        assert_eq!((ours.len(), widths(&document, &FOREIGN).len()), (3, 1));
        assert!(0.0 < ours[0] && ours[0] < ours[1] && ours[1] < ours[2], "{ours:?}");
        for row in &rows {
            assert!(texts(&document).contains(&row.label) && texts(&document).contains(&row.note));
        }
        assert!(texts(&document).contains("a < b & c"));
    }

    #[test]
    fn bars_lengths_are_logarithmic() {
        let svg = bars(&WORDS, &[bar("a", 0.1), bar("b", 1.0), bar("c", 10.0)]).expect("drawn");
        let lengths = widths(&Document::parse(&svg).expect("well-formed"), &SERIES[0]);
        let steps = (lengths[1] - lengths[0], lengths[2] - lengths[1]);
        assert!((steps.0 - steps.1).abs() <= 2.0 && steps.0 > 20.0, "{lengths:?}");
    }

    #[test]
    fn bars_without_a_length_are_refused() {
        for value in [0.0, f64::NAN, f64::INFINITY, -1.0] {
            bars(&WORDS, &[bar("x", value)]).expect_err("nothing to draw");
        }
        bars(&WORDS, &[]).expect_err("no rows");
    }

    #[test]
    fn curves_are_xml_with_all_points_and_names() {
        let points = |k: f64| (1..=5).map(|i| (f64::from(i), k * f64::from(i))).collect();
        let all = [
            Curve { name: "naive".into(), points: points(1.0) },
            Curve { name: "default & best".into(), points: points(3.0) },
        ];
        let svg = curves(&WORDS, &all).expect("drawn");
        let document = Document::parse(&svg).expect("well-formed");
        let dots = |ink: &Ink| {
            let of = |node: &roxmltree::Node<'_, '_>| {
                node.tag_name().name() == "circle"
                    && node.attribute("fill") == Some(&hex(ink.light))
            };
            document.descendants().filter(of).count()
        };
        assert_eq!((dots(&SERIES[0]), dots(&SERIES[1])), (5, 5));
        assert!(texts(&document).contains("default & best"));
        curves(&WORDS, &[]).expect_err("no points");
        curves(&WORDS, &[Curve { name: "x".into(), points: vec![(f64::NAN, 1.0)] }])
            .expect_err("nowhere");
    }

    #[test]
    fn charts_use_only_inks_that_have_a_dark_side() {
        let curve = Curve { name: "one".into(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let known: Vec<String> = [&PAPER, &TEXT, &QUIET, &GRID, &FOREIGN]
            .into_iter()
            .chain(&SERIES)
            .map(|ink| hex(ink.light))
            .collect();
        for svg in [bars(&WORDS, &[bar("a", 1.0)]), curves(&WORDS, &[curve])] {
            let svg = svg.expect("drawn");
            let document = Document::parse(&svg).expect("well-formed");
            let style = document.descendants().find(|n| n.tag_name().name() == "style");
            assert!(style.and_then(|n| n.text()).is_some_and(|text| text.contains("dark")));
            for node in document.descendants() {
                for color in ["fill", "stroke"].iter().filter_map(|name| node.attribute(*name)) {
                    assert!(
                        color == "none" || known.iter().any(|k| k == color),
                        "{color} in {node:?}"
                    );
                }
            }
        }
    }
}
