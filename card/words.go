package card

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/eval"
)

// percent writes a share in percent with two decimals.
func percent(x float64) string { return fmt.Sprintf("%.2f %%", 100*x) }

// value writes the value of a metric as it stands in tables.
func value(metric string, m *eval.Metric) string {
	switch {
	case eval.HigherIsBetter(metric):
		return percent(m.Value)
	case m.Overflow():
		return fmt.Sprintf("e^%.1f", m.Log)
	case metric == eval.BitsPerByte || metric == eval.BytePerplexity:
		return fmt.Sprintf("%.4f", m.Value)
	case m.Value >= exponentFrom:
		return fmt.Sprintf("%.2e", m.Value)
	}
	return digits(m.Value, 4)
}

// valueError is a value with its standard error, where there is one.
func valueError(metric string, m *eval.Metric) string {
	switch {
	case !finite(m.StdErr) || m.Overflow():
		return value(metric, m)
	case eval.HigherIsBetter(metric):
		return fmt.Sprintf("%.2f ± %.2f %%", 100*m.Value, 100*m.StdErr)
	}
	if m.Value >= exponentFrom {
		return fmt.Sprintf("%.2e ± %.1e", m.Value, m.StdErr)
	}
	return value(metric, m) + " ± " + digits(m.StdErr, 2)
}

// exponentFrom is the number from which on numbers are written with an exponent.
const exponentFrom = 1e6

// digits writes a number with at least n digits that count, large ones in groups of three.
func digits(x float64, n int) string {
	switch {
	case !finite(x):
		return "-"
	case math.Abs(x) >= exponentFrom:
		return strconv.FormatFloat(x, 'e', max(n-1, 1), 64)
	case x == 0:
		return "0"
	}
	decimals := max(n-1-int(math.Floor(math.Log10(math.Abs(x)))), 0)
	if decimals > 0 {
		return strconv.FormatFloat(x, 'f', min(decimals, 6), 64)
	}
	return count(int64(math.Round(x)))
}

// count writes a whole number in groups of three.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	digits := strings.TrimPrefix(s, "-")
	sign := s[:len(s)-len(digits)]
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// short writes a number of parameters as people say it: 86.8M, 1.94B.
func short(n int64) string {
	switch x := float64(n); {
	case x >= 1e9:
		return fmt.Sprintf("%.2fB", x/1e9)
	case x >= 1e6:
		return fmt.Sprintf("%.1fM", x/1e6)
	case x >= 1e3:
		return fmt.Sprintf("%.1fK", x/1e3)
	}
	return strconv.FormatInt(n, 10)
}

// bytesText writes a size in decimal units.
func bytesText(n int64) string {
	switch x := float64(n); {
	case x >= 1e9:
		return fmt.Sprintf("%.2f GB", x/1e9)
	case x >= 1e6:
		return fmt.Sprintf("%.1f MB", x/1e6)
	default:
		return fmt.Sprintf("%.1f kB", x/1e3)
	}
}

// change writes by how much b differs from a, in percent of a.
func change(a, b int64) string {
	switch a {
	case b:
		return "0 %"
	case 0:
		return ""
	}
	return fmt.Sprintf("%+.1f %%", 100*(float64(b)/float64(a)-1))
}

// pText writes a p value.
func pText(p float64) string {
	switch {
	case math.IsNaN(p):
		return "-"
	case p < 0.0001:
		return "< 0.0001"
	}
	return "= " + strconv.FormatFloat(p, 'g', 2, 64)
}

// metricTitle is a metric's name for people.
func metricTitle(metric string) string {
	switch metric {
	case eval.Acc:
		return "accuracy"
	case eval.AccNorm:
		return "accuracy, by length"
	}
	return strings.ReplaceAll(metric, "_", " ")
}

// upper begins a sentence.
func upper(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// escape makes text that came from files harmless in a line of Markdown.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, "|", `\|`, "\n", " ", "\r", " ", "*", `\*`, "<", "&lt;", "`", "'", "[", `\[`).Replace(s)
}

// quote is such text in quotation marks.
func quote(s string) string { return `"` + escape(s) + `"` }

// code is such text as a code span, which may stand in a table.
func code(s string) string {
	return "`" + strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ", "`", "'").Replace(s) + "`"
}

// shellWord is the name of a file as a shell takes it, on one line.
func shellWord(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`^[\w./:=@%+,-]+$`)

// list joins words: "a, b and c".
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// table writes a table of Markdown.
func table(rows [][]string) string {
	var b strings.Builder
	for i, r := range rows {
		b.WriteString("| " + strings.Join(r, " | ") + " |\n")
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(r)) + "|\n")
		}
	}
	return b.String()
}
