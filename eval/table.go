package eval

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text returns the comparison as tables for a terminal, without a newline at line ends
// beyond the last.
func (c *Comparison) Text() string { return c.render(textTable, "") }

// Markdown returns the comparison as Markdown.
func (c *Comparison) Markdown() string { return c.render(markdownTable, "- ") }

// JSON returns the comparison as strict JSON.
func (c *Comparison) JSON() ([]byte, error) { return marshal(c, "  ") }

func (c *Comparison) render(table func([][]string) string, bullet string) string {
	var b strings.Builder
	b.WriteString(table(c.modelTable()))
	b.WriteByte('\n')
	b.WriteString(table(c.valueTable()))
	if len(c.Notes) > 0 {
		b.WriteByte('\n')
	}
	for _, n := range c.Notes {
		b.WriteString(bullet + n + ".\n")
	}
	return b.String()
}

// modelTable has a line for each model: what it is, how it was run and what that took.
func (c *Comparison) modelTable() [][]string {
	rows := [][]string{{"", "Model", "Parameters", "Bytes", "dtype", "BOS", "Max length", "Peak memory", "Tokens/s"}}
	for i, m := range c.Models {
		rows = append(rows, []string{
			c.label(i), m.Model.Name, strconv.FormatInt(m.Model.Parameters, 10), strconv.FormatInt(m.Model.Bytes, 10),
			m.Model.DType, string(m.BOS), strconv.Itoa(m.MaxLength),
			orDash(m.Usage.PeakMemory > 0, "%d MiB", m.Usage.PeakMemory>>20),
			orDash(m.TokensPerSecond > 0, "%.0f", m.TokensPerSecond),
		})
	}
	return rows
}

// valueTable has a line for each metric and model. Columns that no line fills are left out.
func (c *Comparison) valueTable() [][]string {
	head := []string{"Task", "Metric", "", "Value", "Stderr", "Change", "Relative", "p", "Chance", "Majority", "Answers chosen", "n"}
	rows := [][]string{head}
	for _, r := range c.Rows {
		for j := range r.Cells {
			if r.Cells[j].Metric != nil {
				rows = append(rows, c.line(&r, j))
			}
		}
	}
	return dropEmpty(rows)
}

func (c *Comparison) line(r *Row, j int) []string {
	cell := &r.Cells[j]
	m := cell.Metric
	label, p := "", ""
	if len(c.Models) > 1 {
		label = c.label(j)
	}
	if cell.Test != nil {
		p = fmt.Sprintf("%.3g", cell.Test.P)
	}
	value := formatValue(m.Value)
	if m.Overflow() {
		value = fmt.Sprintf("e^%.2f", m.Log)
	}
	relative := ""
	if cell.Relative != nil {
		relative = fmt.Sprintf("%+.2f %%", 100**cell.Relative)
	}
	change := ""
	if cell.Change != nil {
		change = formatValue(*cell.Change)
		if *cell.Change >= 0 {
			change = "+" + change
		}
	}
	return []string{
		r.Task, r.Metric, label, value, orDash(finite(m.StdErr) != nil, "± %s", formatValue(m.StdErr)),
		change, relative, p, formatPointer(r.Chance), formatPointer(r.Majority),
		formatAnswers(cell.Answers), strconv.Itoa(cell.Records),
	}
}

// formatValue writes a number with four decimals, very large ones with an exponent.
func formatValue(x float64) string {
	if math.Abs(x) >= 1e7 {
		return fmt.Sprintf("%.4e", x)
	}
	return fmt.Sprintf("%.4f", x)
}

func formatPointer(x *float64) string {
	if x == nil {
		return ""
	}
	return formatValue(*x)
}

func orDash(ok bool, format string, args ...any) string {
	if !ok {
		return "-"
	}
	return fmt.Sprintf(format, args...)
}

// formatAnswers writes how often each answer was chosen, in percent.
func formatAnswers(answers []AnswerRate) string {
	var parts []string
	for _, a := range answers {
		parts = append(parts, fmt.Sprintf("%s %.1f %%", a.Name, 100*a.Chosen))
	}
	return strings.Join(parts, ", ")
}

// dropEmpty removes the columns in which no row but the head has text.
func dropEmpty(rows [][]string) [][]string {
	var keep []int
	for i := range rows[0] {
		for _, row := range rows[1:] {
			if row[i] != "" {
				keep = append(keep, i)
				break
			}
		}
	}
	out := make([][]string, len(rows))
	for i, row := range rows {
		for _, k := range keep {
			out[i] = append(out[i], row[k])
		}
	}
	return out
}

// textTable aligns columns with spaces, the head underlined.
func textTable(rows [][]string) string {
	widths := columnWidths(rows)
	var b strings.Builder
	for i, row := range rows {
		writeRow(&b, row, widths, "", "  ", "")
		if i == 0 {
			total := 2 * (len(widths) - 1)
			for _, w := range widths {
				total += w
			}
			b.WriteString(strings.Repeat("-", max(total, 0)) + "\n")
		}
	}
	return b.String()
}

// markdownTable writes a table of GitHub's Markdown.
func markdownTable(rows [][]string) string {
	escaped := make([][]string, len(rows))
	for i, row := range rows {
		for _, cell := range row {
			escaped[i] = append(escaped[i], strings.ReplaceAll(cell, "|", `\|`))
		}
	}
	widths := columnWidths(escaped)
	rule := make([]string, len(widths))
	for i := range widths {
		widths[i] = max(widths[i], 3)
		rule[i] = strings.Repeat("-", widths[i])
	}
	var b strings.Builder
	for i, row := range escaped {
		writeRow(&b, row, widths, "| ", " | ", " |")
		if i == 0 {
			writeRow(&b, rule, widths, "| ", " | ", " |")
		}
	}
	return b.String()
}

func columnWidths(rows [][]string) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

func writeRow(b *strings.Builder, row []string, widths []int, begin, between, end string) {
	var line strings.Builder
	line.WriteString(begin)
	for i, cell := range row {
		if i > 0 {
			line.WriteString(between)
		}
		line.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)))
	}
	line.WriteString(end)
	b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
}
