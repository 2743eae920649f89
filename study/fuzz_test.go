package study

import (
	"strings"
	"testing"
)

// Whatever the bytes, a ledger is read: what was taken is whole lines that read the same
// again, or it is an error.
func FuzzParseLedger(f *testing.F) {
	header := `{"ledger":1,"format":"coppice study ledger","study":"s"}` + "\n"
	record := `{"version":1,"cell":{"id":"a","model":"m","method":"dense","seed":0,"dtype":"f32","model_fingerprint":"x","data":{}},"status":"done",` +
		`"tasks":[{"name":"t","kind":"multiple_choice","version":1,"source":"f","records":1,"evaluated":1,"metrics":[{"name":"acc","value":1,"stderr":null}],"truncated_requests":0,"truncated_tokens":0,"fingerprint":"f","docs":[0],"scores":[[1]],"weights":[null]}]}` + "\n"
	comparison := `{"version":1,"cell":"b","against":"a","rows":[]}` + "\n"
	for _, seed := range []string{
		"", "\n", header, header + record, header + record + comparison, header + record[:40], header + record[:40] + "\n",
		header + record[:40] + "\n" + comparison, record, strings.Replace(header, ":1", ":2", 1), header + strings.Replace(record, ":1", ":9", 1),
		header + strings.Replace(record, "[0]", "[]", 1) + comparison, header + strings.Replace(record, `[null]`, `[]`, 1) + comparison,
		header + `{"version":1,"cell":null}` + "\n" + comparison, header + strings.Replace(record, "done", "failed", 1) + record,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, valid, err := parseLedger("ledger", data)
		if err != nil {
			return
		}
		if valid < 0 || valid > len(data) || valid > 0 && data[valid-1] != '\n' {
			t.Fatalf("%d of %d bytes are whole lines", valid, len(data))
		}
		again, n, err := parseLedger("ledger", data[:valid])
		if err != nil || n != valid || len(again.Records) != len(l.Records) || len(again.Comparisons) != len(l.Comparisons) {
			t.Fatalf("its whole lines read otherwise: %v", err)
		}
		for i := range l.Records {
			l.Records[i].Result() // must not panic
		}
		l.missing()
	})
}

// Whatever the text of a study file, it is read or refused.
func FuzzDecodeYAML(f *testing.F) {
	for _, seed := range []string{
		goodFile, fakeFile, string(Example), "", "a", "- 1", "version: [1", "version: &a [*a]", "models: [{path: *x}]", "? [a]\n: b\n", "<<: {version: 1}\n",
		"energy: {grid: .nan}\n", "seeds: [18446744073709551616]\n", "ratios: !!str 1\n", "version: 0x1\n", "\t",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Study
		d, err := decodeYAML("study.yaml", data, &s)
		if err != nil || d.err() != nil {
			return
		}
		s.path = "study.yaml"
		s.fill()
		if len(s.Models) == 0 || len(s.Methods) == 0 || s.Version != 1 {
			t.Fatalf("taken though a required key is missing: %+v", s)
		}
	})
}
