package kernel

import (
	"fmt"
	"math"
	"testing"
)

// attnCase is a sequence's queries, keys and values for one group of heads.
type attnCase struct {
	a       Attention
	n       int // positions
	q, k, v []float32
}

func newAttnCase(seed uint64, a Attention, n int) attnCase {
	r := newRand(seed)
	return attnCase{a, n, normals(r, n*a.Heads*a.HeadDim), normals(r, n*a.HeadDim), normals(r, n*a.HeadDim)}
}

// run computes positions p0..p1, with the keys cut into runs at the given positions.
func (c attnCase) run(dst []float32, p0, p1 int, cuts ...int) {
	d, row := c.a.HeadDim, c.a.HeadDim*c.a.Heads
	var kv []KV
	from := 0
	for _, to := range append(cuts, c.n) {
		kv = append(kv, KV{to - from, c.k[from*d:], c.v[from*d:], d, d})
		from = to
	}
	c.a.Run(dst[p0*row:], row, c.q[p0*row:], row, p1-p0, p0, kv)
}

var attnCases = []struct {
	a Attention
	n int
}{
	{Attention{HeadDim: 64, Heads: 3, Scale: 0.125}, 300},
	{Attention{HeadDim: 64, Heads: 1, Scale: 0.125, Window: 40}, 290},
	{Attention{HeadDim: 24, Heads: 2, Scale: 0.3, SoftCap: 5, Window: 131}, 270},
	{Attention{HeadDim: 1, Heads: 5, Scale: 1}, 140},
	{Attention{HeadDim: 256, Heads: 1, Scale: 0.0625}, 130},
	{Attention{HeadDim: 64, Heads: 3, Scale: 0.125, BF16: true}, 300},
	{Attention{HeadDim: 23, Heads: 2, Scale: 0.3, SoftCap: 5, Window: 131, BF16: true}, 270},
	{Attention{HeadDim: 1, Heads: 5, Scale: 1, BF16: true}, 140},
}

// Attention has the same bits at every level.
func TestAttentionEqualsTwin(t *testing.T) {
	for i, a := range attnCases {
		c := newAttnCase(uint64(i), a.a, min(a.n, 150))
		var want []float32
		atLevels(t, func(t *testing.T) {
			got := make([]float32, len(c.q))
			c.run(got, 0, c.n)
			if active == Generic {
				want = got
			}
			sameBits(t, fmt.Sprintf("%+v", c.a), got, want)
		})
	}
}

// A query's result does not depend on the other queries of the call, on where it
// begins, or on the runs that the keys come in.
func TestAttentionSameBits(t *testing.T) {
	for i, a := range attnCases {
		c := newAttnCase(uint64(i), a.a, a.n)
		atLevels(t, func(t *testing.T) {
			if active == Generic {
				c.n = min(c.n, 140) // slow, and the same code for each block
			}
			what := fmt.Sprintf("%+v", c.a)
			row := c.a.HeadDim * c.a.Heads
			want := make([]float32, c.n*row)
			c.run(want, 0, c.n)
			for _, step := range []int{1, 7, 50, 128} {
				got := make([]float32, c.n*row)
				for p := 0; p < c.n; p += step {
					c.run(got, p, min(p+step, c.n))
				}
				sameBits(t, fmt.Sprintf("%s, %d queries a call", what, step), got, want)
			}
			for _, cuts := range [][]int{{1}, {16, 16, 17}, {100, 128, 129}, {0, 127}} {
				got := make([]float32, c.n*row)
				c.run(got, 0, c.n, cuts...)
				sameBits(t, fmt.Sprintf("%s, keys cut at %v", what, cuts), got, want)
			}
		})
	}
}

// Extreme scores: one key takes all weight, later keys have ever greater scores (each
// block rescales), equal scores give the mean.
func TestAttentionExtremes(t *testing.T) {
	const n, d = 260, 16
	a := Attention{HeadDim: d, Heads: 1, Scale: 1}
	c := newAttnCase(1, a, n)
	clear(c.q)
	mean := make([]float32, n*d)
	c.run(mean, 0, n)
	var want float64
	for i := range n {
		want += float64(c.v[i*d]) / n
	}
	near(t, "mean", mean[(n-1)*d:][:1], []float64{want}, 1e-6)

	for i := range n {
		c.q[i*d] = 1
		c.k[i*d] = 200 * float32(i)
	}
	atLevels(t, func(t *testing.T) {
		got := make([]float32, n*d)
		c.run(got, 0, n)
		sameBits(t, "growing scores", got, c.v) // each query sees its own key alone
	})

	// A NaN key makes the queries that see it NaN and no others before its block.
	c.k[200*d] = float32(math.NaN())
	atLevels(t, func(t *testing.T) {
		got := make([]float32, n*d)
		c.run(got, 0, n)
		for i := range n {
			if isNaN := got[i*d] != got[i*d]; isNaN != (i >= 200) {
				t.Fatalf("position %d: NaN %v", i, isNaN)
			}
		}
	})
}

func TestAttentionChecksSizes(t *testing.T) {
	k := make([]float32, 64)
	defer func() {
		if recover() == nil {
			t.Error("no panic for 2 queries at position 3 with 4 keys")
		}
	}()
	Attention{HeadDim: 16, Heads: 1, Scale: 1}.Run(make([]float32, 32), 16, make([]float32, 32), 16, 2, 3, []KV{{4, k, k, 16, 16}})
}
