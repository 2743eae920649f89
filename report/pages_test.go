package report_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/coppice-lm/coppice/report"
	"github.com/coppice-lm/coppice/report/reporttest"
	"github.com/coppice-lm/coppice/study"
)

// TestWritePages writes the pages that `make browser` looks at.
func TestWritePages(t *testing.T) {
	dir := os.Getenv("COPPICE_REPORT_PAGES")
	if dir == "" {
		t.Skip("COPPICE_REPORT_PAGES names no directory: no pages were written for a browser")
	}
	small := reporttest.Small()
	one := reporttest.Small()
	one.Ratios = nil
	absent := reporttest.Small()
	absent.Meter = "none"
	two := reporttest.Small()
	two.Models = []string{"small", "large"}
	for name, c := range map[string]struct {
		ledger *study.Ledger
		budget report.Budget
	}{
		"small":   {small.Ledger(), report.Budget{}},
		"budget":  {absent.Ledger(), report.Budget{MaxBytes: 200e6, MinAccuracy: []report.Floor{{Task: "arc_easy", Accuracy: 0.45}}}},
		"one":     {one.Ledger(), report.Budget{}},
		"two":     {two.Ledger(), report.Budget{MaxBytes: 300e6}},
		"hostile": {hostile(), report.Budget{}},
		"large":   {reporttest.Large().Ledger(), report.Budget{}},
	} {
		r, err := report.New(c.ledger, c.budget)
		if err != nil {
			t.Fatal(err)
		}
		page, err := r.HTML()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".html"), page, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// hostile is a ledger whose names and texts try to break out of every form, and whose
// values are at the border of what numbers are.
func hostile() *study.Ledger {
	l := reporttest.Small().Ledger()
	const evil = `</script><script>alert("x")</script><img src=x onerror=alert(1)>|` + "`'\n# head *a* [b](c)"
	for i := range l.Records {
		r := &l.Records[i]
		r.Cell.Model, r.Cell.BaseModel = evil, ""
		r.Commands = []string{evil}
		r.Run.Host.CPU = evil
		r.Run.Energy = &study.Energy{Meter: "none", Absent: evil}
	}
	l.Study = evil
	failed := l.Records[len(l.Records)-1]
	failed.Status, failed.Error, failed.Tasks, failed.Groups, failed.Shape, failed.Run = study.Failed, evil, nil, nil, nil, nil
	l.Records[len(l.Records)-1] = failed
	return l
}
