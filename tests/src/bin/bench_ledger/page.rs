//! One page for a browser: a bar per ratio, a dot per sample.
//!
//! In: a run. Out: HTML, in the frame of the packet generator's. Never: a script, a font or a picture from elsewhere; a bar
//! without the values that it is of.

use std::fmt::Write as _;

use culvert_pktgen::report::{self, digits, escaped};

use crate::compare::ranged;
use crate::run::Run;
use crate::samples::Samples;
use crate::series::Series;

/// A bar's picture.
const WIDTH: f64 = 280.0;
const HEIGHT: f64 = 22.0;
const MARGIN: f64 = 6.0;

/// How far a section's bars reach, on a logarithmic scale around 1: as far as its ratios do, but no further than ten times.
/// What is beyond that ends at the picture's side; its number stands beside it.
#[derive(Clone, Copy)]
struct Scale {
    most: f64,
}

/// The whole page.
pub(crate) fn page(run: &Run) -> String {
    let mut body = String::new();
    for (section, how) in &run.failed {
        // A String takes everything; so below.
        let _ = write!(
            body,
            "<p class=\"warn\"><b>{}</b> ended early: {}</p>",
            escaped(section),
            escaped(how)
        );
    }
    body.push_str(
        "<p>Both values stand beside each other, and behind them how many times better Culvert is: to the right of the line in the \
         middle it is better. Dots are single measurements, bars reach to their median.</p>",
    );
    let all = Series::of(run);
    for section in run.sections() {
        let of: Vec<&Series> = all.iter().filter(|it| it.section == section).collect();
        table(section, &of, &mut body);
    }
    facts(run, &mut body);
    let below = ["commit", "date", "processor"].map(|name| run.fact(name).unwrap_or("unknown"));
    report::page("Culvert's benchmarks", &below.join(" · "), &body)
}

fn table(section: &str, all: &[&Series], out: &mut String) {
    let scale = Scale::of(all);
    let _ = write!(
        out,
        "<h2>{}</h2><div class=\"wide\"><table><thead><tr><th>Case</th><th>Culvert</th><th>Reference</th><th>Ratio</th>\
         <th class=\"left\">worse | better, up to {} times</th></tr></thead><tbody>",
        escaped(section),
        digits(scale.most)
    );
    all.iter().for_each(|series| row(series, scale, out));
    out.push_str("</tbody></table></div>");
}

fn row(series: &Series, scale: Scale, out: &mut String) {
    let with = |value: &str, what: &str| format!("{value}<br><small>{}</small>", escaped(what));
    let reference = series.reference.as_ref();
    let beside = reference.map_or("–".into(), |it| with(&ranged(&it.values), &it.name));
    let ratio = series
        .ratio()
        .map_or("–".into(), |ratio| format!("{ratio:.2}"));
    let picture = reference.filter(|it| it.ratios.len() > 0);
    let picture = picture.map_or(String::new(), |it| scale.bar(&series.name(), &it.ratios));
    let _ = write!(
        out,
        "<tr><td>{}</td><td>{}</td><td>{beside}</td><td>{ratio}</td><td class=\"left\">{picture}</td></tr>",
        with(&escaped(&series.case), &series.origin),
        with(&ranged(&series.values), &series.unit)
    );
}

impl Scale {
    fn of(all: &[&Series]) -> Self {
        let references = all.iter().filter_map(|it| it.reference.as_ref());
        let ratios = references.flat_map(|it| it.ratios.all());
        let most = ratios
            .map(|ratio| ratio.max(ratio.recip()))
            .fold(2.0, f64::max);
        Self {
            most: most.ceil().min(10.0),
        }
    }

    /// Blue to the right of the middle, the style's second color to the left.
    fn bar(self, name: &str, ratios: &Samples) -> String {
        let (median, middle) = (ratios.median(), self.place(1.0));
        let (from, to) = (
            self.place(median).min(middle),
            self.place(median).max(middle),
        );
        let series = usize::from(median < 1.0);
        let says = escaped(&format!("{name}: {median:.2} times"));
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" style=\"width:{WIDTH}px;max-width:none\" role=\"img\" aria-label=\"{says}\">\
         <line class=\"axis\" x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"0\" y2=\"{HEIGHT}\"/>\
         <rect class=\"bar s{series}\" x=\"{from:.1}\" y=\"5\" width=\"{:.1}\" height=\"12\"><title>{says}</title></rect>",
            to - from
        );
        for ratio in ratios.all().iter().filter(|_| !ratios.is_single()) {
            let _ = write!(
                out,
                "<circle class=\"dot s{series}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"><title>{}</title></circle>",
                self.place(*ratio),
                HEIGHT / 2.0,
                digits(*ratio)
            );
        }
        out + "</svg>"
    }

    /// Where a ratio is in the picture.
    fn place(self, ratio: f64) -> f64 {
        let share = ratio.clamp(self.most.recip(), self.most).ln() / self.most.ln();
        WIDTH / 2.0 + share * (WIDTH / 2.0 - MARGIN)
    }
}

fn facts(run: &Run, out: &mut String) {
    out.push_str("<h2>On what, and how</h2><table class=\"facts\"><tbody>");
    for (name, fact) in &run.machine {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td></tr>",
            escaped(name),
            escaped(fact)
        );
    }
    out.push_str("</tbody></table>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_bar_for_each_ratio_and_a_dot_for_each_sample() {
        let run = Run::parse(
            r#"{"format":1,"machine":{"processor":"<X>"}}
               {"section":"way","case":"a<b","unit":"ns","value":3,"reference":"aead","reference_value":2,"ratio":0.6}
               {"section":"way","case":"a<b","unit":"ns","value":4,"reference":"aead","reference_value":2,"ratio":0.5}
               {"section":"wire","case":"parse","unit":"ns","value":7}"#,
        )
        .unwrap();
        let html = page(&run);
        let count = |what: &str| html.matches(what).count();
        assert_eq!((count("<rect"), count("<circle"), count("<h2>")), (1, 2, 3));
        assert!(html.contains("&lt;X&gt;") && html.contains("a&lt;b") && !html.contains("a<b"));
        assert!(!html.contains("<script") && !html.contains("http"));
    }

    #[test]
    fn ratios_are_within_the_picture_and_one_is_its_middle() {
        let scale = Scale { most: 4.0 };
        assert!((scale.place(1.0) - WIDTH / 2.0).abs() < 1e-9);
        assert!(scale.place(1e9) <= WIDTH - MARGIN && scale.place(1e-9) >= MARGIN);
        let [half, one, twice] = [0.5, 1.0, 2.0].map(|ratio| scale.place(ratio));
        assert!(((twice - one) - (one - half)).abs() < 1e-9);
    }

    #[test]
    fn a_sections_scale_reaches_as_far_as_its_ratios() {
        let run = |ratio: f64| {
            Run::parse(&format!(
                r#"{{"format":1,"machine":{{}}}}
                   {{"section":"way","case":"out","unit":"ns","value":1,"reference":"aead","reference_value":2,"ratio":{ratio}}}"#
            ))
            .unwrap()
        };
        let most = |ratio: f64| Scale::of(&Series::of(&run(ratio)).iter().collect::<Vec<_>>()).most;
        assert_eq!([1.1, 4.0, 0.2, 99.0].map(most), [2.0, 4.0, 5.0, 10.0]);
    }
}
