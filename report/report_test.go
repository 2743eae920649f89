package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/report"
	"github.com/coppice-lm/coppice/report/reporttest"
	"github.com/coppice-lm/coppice/study"
)

var update = flag.Bool("update", false, "write testdata anew")

// forms returns a ledger's report in all four forms.
func forms(t testing.TB, l *study.Ledger, b report.Budget) map[string][]byte {
	t.Helper()
	r, err := report.New(l, b)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{"md": r.Markdown()}
	for name, f := range map[string]func() ([]byte, error){"html": r.HTML, "csv": r.CSV, "json": r.JSON} {
		if out[name], err = f(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// tiny is a study of a dense model and two variants, without the tests of others.
func tiny() reporttest.Grid {
	g := reporttest.Small()
	g.Methods, g.Ratios, g.Layers = []string{"maxabs", "best"}, []float64{0.2}, 4
	return g
}

// The order in which cells were run changes nothing, nor does making a report twice.
func TestSameBytes(t *testing.T) {
	l := reporttest.Small().Ledger()
	want := forms(t, l, report.Budget{})
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(len(l.Records), func(i, j int) { l.Records[i], l.Records[j] = l.Records[j], l.Records[i] })
	rng.Shuffle(len(l.Comparisons), func(i, j int) { l.Comparisons[i], l.Comparisons[j] = l.Comparisons[j], l.Comparisons[i] })
	for name, got := range forms(t, l, report.Budget{}) {
		if !bytes.Equal(got, want[name]) {
			t.Errorf("%s depends on the order of the ledger", name)
		}
	}
}

func TestMarkdownGolden(t *testing.T) {
	got := forms(t, tiny().Ledger(), report.Budget{})["md"]
	path := filepath.Join("testdata", "tiny.md")
	if *update {
		if err := os.WriteFile(path, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestEmpty(t *testing.T) {
	if _, err := report.New(&study.Ledger{}, report.Budget{}); !errors.Is(err, report.ErrEmpty) {
		t.Errorf("error %v, want ErrEmpty", err)
	}
	// A ledger in which every cell failed still says why.
	l := tiny().Ledger()
	for i := range l.Records {
		r := &l.Records[i]
		l.Records[i] = study.Record{Version: r.Version, Cell: r.Cell, Status: study.Failed, Error: "no space left"}
	}
	for name, b := range forms(t, l, report.Budget{}) {
		if !bytes.Contains(b, []byte("no space left")) {
			t.Errorf("%s does not say why cells failed", name)
		}
	}
}

// A dense model alone, and one variant alone, are reports too.
func TestSingleCell(t *testing.T) {
	l := tiny().Ledger()
	for _, rec := range l.Records {
		out := forms(t, &study.Ledger{Records: []study.Record{rec}}, report.Budget{MaxBytes: 1 << 40})
		if !bytes.Contains(out["html"], []byte("arc_easy")) {
			t.Errorf("%s %v: no results", rec.Cell.Method, rec.Cell.Ratio)
		}
		if rec.Cell.Method != study.Dense && !bytes.Contains(out["md"], []byte("the dense model was not measured")) {
			t.Errorf("%s %v: it is not said that the dense model is missing", rec.Cell.Method, rec.Cell.Ratio)
		}
	}
}

// Names and messages are no markup in any form.
func TestHostile(t *testing.T) {
	out := forms(t, hostile(), report.Budget{})
	page := string(out["html"])
	for _, bad := range []string{"<script>alert", "<img", "onerror=alert(1)>"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if n := strings.Count(page, "<script"); n != 1 {
		t.Errorf("%d scripts, want the page's own", n)
	}
	if n := strings.Count(page, "</script"); n != 1 {
		t.Errorf("%d ends of scripts, want 1", n)
	}
	rows, err := csv.NewReader(bytes.NewReader(out["csv"])).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(rows[1][1], "# head *a* [b](c)") {
		t.Errorf("CSV's model is %q", rows[1][1])
	}
	for _, line := range strings.Split(string(out["md"]), "\n") {
		live := regexp.MustCompile(`\\.`).ReplaceAllString(line, "")
		if strings.Contains(live, "*a") || strings.Contains(live, "<s") || strings.Contains(live, "[b") || strings.HasPrefix(line, "# head") {
			t.Errorf("Markdown takes a name for markup: %s", line)
		}
	}
}

// Nothing on a page is fetched from anywhere.
func TestNoNetwork(t *testing.T) {
	page := string(forms(t, tiny().Ledger(), report.Budget{})["html"])
	for _, bad := range []string{"http:", "https:", "url(", "src=", "@import", "<link", "<iframe"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if !strings.Contains(page, "default-src &#39;none&#39;") {
		t.Error("the page has no policy against fetching")
	}
}

// Numbers that are none appear as missing; a perplexity that overflows as a power of e.
func TestNotFinite(t *testing.T) {
	l := tiny().Ledger()
	r := &l.Records[1]
	for i := range r.Tasks {
		m := &r.Tasks[i].Metrics[0]
		switch r.Tasks[i].Name {
		case "arc_easy":
			m.Value, m.StdErr = math.NaN(), math.NaN()
		case "wikitext":
			m.Value, m.StdErr, m.Log = math.Inf(1), math.Inf(1), 712.25
		case "boolq":
			m.StdErr = math.NaN()
		}
	}
	r.Run.Speed[0].TokensPS, r.Run.Speed[0].Runs = math.NaN(), nil
	for i := range l.Comparisons {
		for j := range l.Comparisons[i].Rows {
			if t := l.Comparisons[i].Rows[j].Cells[1].Test; t != nil && t.Name == "paired_bootstrap" {
				t.P, t.Low = math.NaN(), math.Inf(-1)
			}
		}
	}
	out := forms(t, l, report.Budget{})
	for name, b := range out {
		for _, bad := range []string{"NaN", "+Inf", "-Inf"} {
			if bytes.Contains(b, []byte(bad)) && !(name == "html" && bytes.Count(b, []byte("NaN")) == bytes.Count(b, []byte("isNaN"))) {
				t.Errorf("%s holds %s", name, bad)
			}
		}
	}
	if !bytes.Contains(out["html"], []byte("e^712")) {
		t.Error("the page does not say how large the perplexity is")
	}
	if !bytes.Contains(out["md"], []byte("has no result for arc\\_easy")) {
		t.Error("the missing value is not listed")
	}
}

func TestCSV(t *testing.T) {
	l := tiny().Ledger()
	l.Records[2].Status, l.Records[2].Error = study.Failed, "killed"
	rows, err := csv.NewReader(bytes.NewReader(forms(t, l, report.Budget{})["csv"])).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := 1 // of the cell that failed
	for _, r := range l.Records[:2] {
		for _, task := range r.Tasks {
			want += len(task.Metrics)
		}
		for _, g := range r.Groups {
			want += len(g.Metrics)
		}
	}
	if got := len(rows) - 1; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	column := func(row []string, name string) string { return row[slices.Index(rows[0], name)] }
	last := rows[len(rows)-1]
	if column(last, "status") != "failed" || column(last, "error") != "killed" || column(last, "task") != "" {
		t.Errorf("the failed cell's row is %q", last)
	}
	for _, row := range rows[1:] {
		if column(row, "method") == "maxabs" && column(row, "task") == "arc_easy" && column(row, "metric") == eval.Acc {
			if column(row, "p") == "" || column(row, "only_dense") == "" || column(row, "dense_value") == "" {
				t.Errorf("a tested value's row is %q", row)
			}
			return
		}
	}
	t.Error("no row of maxabs on arc_easy")
}

func TestJSON(t *testing.T) {
	l := tiny().Ledger()
	var r report.Report
	if err := json.Unmarshal(forms(t, l, report.Budget{})["json"], &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Sets) != 1 || len(r.Sets[0].Variants) != len(l.Records) || r.Version != report.Version {
		t.Errorf("%d sets, version %d", len(r.Sets), r.Version)
	}
	if q := r.Sets[0].Variants[0].Quality; q == nil || q.Value != 1 {
		t.Errorf("the dense model's quality is %+v, want 1", q)
	}
}

// 500 cells fit into a page of 5 MB.
func TestLargePage(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the size of a page of 500 cells was not checked")
	}
	l := reporttest.Large().Ledger()
	if len(l.Records) < 500 {
		t.Fatalf("%d cells, want 500", len(l.Records))
	}
	if n := len(forms(t, l, report.Budget{})["html"]); n > 5e6 {
		t.Errorf("%d cells make a page of %d bytes, want at most 5 MB", len(l.Records), n)
	}
}

// BenchmarkReport500 makes the page of 500 cells from a ledger in a file, with the scores
// of 200 records of each task.
func BenchmarkReport500(b *testing.B) {
	g := reporttest.Large()
	g.Scores = 200
	text, err := g.Ledger().Encode()
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "ledger")
	if err := os.WriteFile(path, text, 0o666); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l, err := study.ReadLedger(path)
		if err != nil {
			b.Fatal(err)
		}
		r, err := report.New(l, report.Budget{})
		if err != nil {
			b.Fatal(err)
		}
		page, err := r.HTML()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(page)), "page-bytes")
		b.ReportMetric(float64(len(text)), "ledger-bytes")
	}
}
