package eval_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
)

func ids(from, to int32) []int32 {
	var out []int32
	for i := from; i <= to; i++ {
		out = append(out, i)
	}
	return out
}

func TestRollingWindows(t *testing.T) {
	const prefix = 99
	for _, c := range []struct {
		name      string
		tokens    []int32
		maxLength int
		want      []eval.TokenRequest
	}{
		{"REPORTS eval/windows: 10 tokens, maximum length 4", ids(0, 9), 4, []eval.TokenRequest{
			{Context: []int32{prefix}, Continuation: ids(0, 3)},
			{Context: []int32{3}, Continuation: ids(4, 7)},
			{Context: []int32{5, 6, 7}, Continuation: ids(8, 9)},
		}},
		{"shorter than a window", ids(0, 2), 4, []eval.TokenRequest{{Context: []int32{prefix}, Continuation: ids(0, 2)}}},
		{"exactly one window", ids(0, 3), 4, []eval.TokenRequest{{Context: []int32{prefix}, Continuation: ids(0, 3)}}},
		{"exactly two windows", ids(0, 7), 4, []eval.TokenRequest{
			{Context: []int32{prefix}, Continuation: ids(0, 3)},
			{Context: []int32{3}, Continuation: ids(4, 7)},
		}},
		{"one token left", ids(0, 4), 4, []eval.TokenRequest{
			{Context: []int32{prefix}, Continuation: ids(0, 3)},
			{Context: ids(0, 3), Continuation: ids(4, 4)},
		}},
		{"maximum length 1", ids(0, 2), 1, []eval.TokenRequest{
			{Context: []int32{prefix}, Continuation: ids(0, 0)},
			{Context: ids(0, 0), Continuation: ids(1, 1)},
			{Context: ids(1, 1), Continuation: ids(2, 2)},
		}},
		{"no tokens", nil, 4, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, eval.RollingWindows(c.tokens, prefix, c.maxLength)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever the lengths: each token is predicted once and in order, an input never exceeds
// the maximum length, and from the second window on it is exactly that long.
func TestRollingWindowsInvariants(t *testing.T) {
	for n := range 40 {
		for maxLength := 1; maxLength < 12; maxLength++ {
			tokens := ids(0, int32(n)-1)
			var predicted []int32
			for i, w := range eval.RollingWindows(tokens, 99, maxLength) {
				predicted = append(predicted, w.Continuation...)
				input := len(w.Context) + len(w.Continuation) - 1
				if input > maxLength || i > 0 && input != maxLength {
					t.Errorf("%d tokens, maximum length %d: window %d has an input of %d", n, maxLength, i, input)
				}
			}
			if diff := cmp.Diff(tokens, predicted); diff != "" {
				t.Errorf("%d tokens, maximum length %d: %s", n, maxLength, diff)
			}
		}
	}
}

func TestTextWindows(t *testing.T) {
	want := []eval.TokenRequest{
		{Context: ids(0, 0), Continuation: ids(1, 3)},
		{Context: ids(4, 4), Continuation: ids(5, 7)},
	}
	for _, n := range []int32{8, 11} { // a short last window is dropped
		if diff := cmp.Diff(want, eval.TextWindows(ids(0, n-1), 4)); diff != "" {
			t.Errorf("%d tokens: %s", n, diff)
		}
	}
	if got := eval.TextWindows(ids(0, 2), 4); got != nil {
		t.Errorf("3 tokens in windows of 4: %v", got)
	}
}
