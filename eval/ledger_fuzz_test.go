package eval

import (
	"bytes"
	"math"
	"testing"
)

// Whatever the bytes, readLedger returns: whole lines that read the same again, or an error.
func FuzzReadLedger(f *testing.F) {
	header := `{"format":"coppice eval ledger","version":1,"weights":"w","tokenizer":"t","dtype":"f32","bos":"none","max_length":8,"tasks":{"a":"1"}}` + "\n"
	line := `{"task":"a","doc":0,"request":1,"loglikelihood":-1.25,"greedy":true}` + "\n"
	for _, seed := range []string{
		"", "\n", "{", header, header + line, header + line + line[:20], header + line[:20] + "\n",
		header + "\x00\x00\n", header + line + "null\n" + line, line, header + "\n" + line,
		header + `{"task":"a","doc":1e99,"request":1,"loglikelihood":-1e999,"greedy":true}` + "\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, done, valid, err := readLedger(data)
		if err != nil {
			return
		}
		if valid < 0 || valid > len(data) || valid > 0 && data[valid-1] != '\n' {
			t.Fatalf("%d of %d bytes are whole lines", valid, len(data))
		}
		if (h == nil) != (valid == 0) {
			t.Fatalf("header %v with %d bytes", h, valid)
		}
		if bytes.IndexByte(data[valid:], '\n') >= 0 && bytes.IndexByte(data[valid:], '\n') != len(data[valid:])-1 {
			t.Fatal("lines behind a damaged one were dropped without an error")
		}
		for key, r := range done {
			if key.Task == "" || math.IsNaN(r.LogLikelihood) || math.IsInf(r.LogLikelihood, 0) {
				t.Fatalf("%+v: %+v", key, r)
			}
		}
		_, again, validAgain, err := readLedger(data[:valid])
		if err != nil || validAgain != valid || len(again) != len(done) {
			t.Fatalf("the whole lines read again: %d results of %d, %d bytes of %d, error %v", len(again), len(done), validAgain, valid, err)
		}
	})
}
