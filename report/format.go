package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/eval"
)

// minus is the typographic sign, as wide as a plus.
const minus = "\u2212"

// none stands where nothing was measured.
const none = "\u2013"

// percent writes a share with one decimal.
func percent(x float64) string { return signed(fmt.Sprintf("%.1f %%", 100*x)) }

// signed writes a number's hyphen as a minus.
func signed(s string) string {
	if strings.HasPrefix(s, "-") {
		return minus + s[1:]
	}
	return s
}

// plus writes a change with its sign.
func plus(s string) string {
	if strings.HasPrefix(s, minus) {
		return s
	}
	return "+" + s
}

// metricValue writes an accuracy in percent without the sign, a perplexity with about
// three digits, and one that overflows as a power of e.
func metricValue(name string, m *eval.Metric) string {
	switch {
	case m == nil:
		return none
	case eval.HigherIsBetter(name):
		return fmt.Sprintf("%.1f", 100*m.Value)
	case m.Overflow():
		return "e^" + thousands(m.Log, 0)
	}
	return digits(m.Value)
}

// metricError writes the standard error of a metric with as many decimals as its value,
// "" where there is none.
func metricError(name string, m *eval.Metric) string {
	switch {
	case m == nil || finite(m.StdErr) == nil || finite(m.Value) == nil:
		return ""
	case eval.HigherIsBetter(name):
		return fmt.Sprintf("%.1f", 100*m.StdErr)
	}
	e := math.Floor(math.Log10(m.Value))
	switch {
	case m.Value >= 1e6:
		return fmt.Sprintf("%.1f\u00d710%s", m.StdErr/math.Pow(10, e), superscript(int(e)))
	case m.Value >= 1:
		return thousands(m.StdErr, max(0, 2-int(e)))
	}
	return digits(m.StdErr)
}

// digits writes a positive number with about three significant digits.
func digits(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x):
		return none
	case math.IsInf(x, 0):
		return "\u221e"
	case a == 0:
		return "0"
	case a >= 1e6:
		e := int(math.Floor(math.Log10(a)))
		return signed(fmt.Sprintf("%.1f\u00d710%s", x/math.Pow(10, float64(e)), superscript(e)))
	case a >= 100:
		return thousands(x, 0)
	case a >= 10:
		return signed(fmt.Sprintf("%.1f", x))
	case a >= 1:
		return signed(fmt.Sprintf("%.2f", x))
	case a >= 1e-3:
		return signed(strconv.FormatFloat(x, 'f', 2-int(math.Floor(math.Log10(a))), 64))
	}
	e := int(math.Floor(math.Log10(math.Abs(x))))
	return signed(fmt.Sprintf("%.1f\u00d710%s", x/math.Pow(10, float64(e)), superscript(e)))
}

func superscript(n int) string {
	return strings.Map(func(r rune) rune {
		if r == '-' {
			return '\u207b'
		}
		return []rune("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")[r-'0']
	}, strconv.Itoa(n))
}

// thousands writes a number with commas.
func thousands(x float64, decimals int) string {
	s := strconv.FormatFloat(math.Abs(x), 'f', decimals, 64)
	whole, rest, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	if x < 0 {
		return minus + whole
	}
	return whole
}

// pValue writes a p value; resampling cannot tell values below 0.0001 apart.
func pValue(p float64) string {
	switch {
	case math.IsNaN(p):
		return none
	case p < 1e-4:
		return "< 0.0001"
	case p < 0.001:
		return fmt.Sprintf("%.4f", p)
	case p < 0.1:
		return fmt.Sprintf("%.3f", p)
	}
	return fmt.Sprintf("%.2f", p)
}

// text writes a difference: points of percent for accuracies, a factor for perplexities.
func (c *Change) text(col Column) string {
	switch {
	case c == nil || c.Change == nil:
		return ""
	case col.accuracy():
		return plus(signed(fmt.Sprintf("%.1f", 100**c.Change)))
	case c.Relative == nil:
		return plus(digits(*c.Change))
	}
	return "\u00d7" + factor(1+*c.Relative)
}

// factor writes a ratio.
func factor(x float64) string {
	if x >= 0.1 && x < 10 {
		return fmt.Sprintf("%.2f", x)
	}
	return digits(x)
}

// byteSize writes a number of bytes in decimal units.
func byteSize(n int64) string {
	switch x := float64(n); {
	case x >= 1e9:
		return fmt.Sprintf("%.2f GB", x/1e9)
	case x >= 1e6:
		return thousands(x/1e6, 0) + " MB"
	}
	return thousands(float64(n)/1e3, 0) + " kB"
}

// count writes a number of parameters.
func count(n int64) string {
	switch x := float64(n); {
	case x >= 1e9:
		return fmt.Sprintf("%.2f B", x/1e9)
	case x >= 1e6:
		return fmt.Sprintf("%.1f M", x/1e6)
	}
	return thousands(float64(n), 0)
}

// duration writes seconds.
func duration(s float64) string {
	switch {
	case s >= 5400:
		return fmt.Sprintf("%.1f h", s/3600)
	case s >= 90:
		return fmt.Sprintf("%.0f min", s/60)
	}
	return digits(s) + " s"
}

// plural writes a number with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return thousands(float64(n), 0) + " " + noun + "s"
}
