package linalg

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func random(seed uint64, rows, cols int) *Matrix {
	r := rand.New(rand.NewPCG(seed, 7))
	m := New(rows, cols)
	for i := range m.Data {
		m.Data[i] = r.NormFloat64()
	}
	return m
}

// definite returns X'X/rows + ridge for random X.
func definite(seed uint64, n, rows int, ridge float64) *Matrix {
	x := random(seed, n, rows)
	a := New(n, n)
	AddMulT(a, 1/float64(rows), x, x, 1)
	a.AddDiagonal(ridge)
	return a
}

func maxDiff(a, b *Matrix) float64 {
	worst := 0.0
	for i := range a.Rows {
		for j := range a.Cols {
			worst = max(worst, math.Abs(a.At(i, j)-b.At(i, j)))
		}
	}
	return worst
}

func TestAddMulTAgainstDefinition(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, s := range [][3]int{{1, 1, 1}, {4, 8, 3}, {5, 9, 17}, {97, 33, 300}, {130, 131, 520}, {3, 200, 1}, {7, 7, 0}} {
			a, b, c := random(1, s[0], s[2]), random(2, s[1], s[2]), random(3, s[0], s[1])
			want := c.Clone()
			for i := range s[0] {
				for j := range s[1] {
					for k := range s[2] {
						want.Data[i*s[1]+j] += -0.5 * a.At(i, k) * b.At(j, k)
					}
				}
			}
			AddMulT(c, -0.5, a, b, 3)
			if d := maxDiff(c, want); d > 1e-12 {
				t.Errorf("%v: off by %g", s, d)
			}
		}
	})
}

// Views into larger matrices: nothing outside them is touched.
func TestViews(t *testing.T) {
	whole := random(1, 40, 50)
	before := whole.Clone()
	AddMulT(whole.View(10, 21, 5, 18), 1, whole.View(0, 11, 30, 36), random(2, 13, 6), 2)
	for i := range 40 {
		for j := range 50 {
			inside := i >= 10 && i < 21 && j >= 5 && j < 18
			if !inside && whole.At(i, j) != before.At(i, j) {
				t.Fatalf("element %d, %d changed", i, j)
			}
		}
	}
}

// Every level and any number of threads give the same bits.
func TestSameBits(t *testing.T) {
	var want []float64
	eachLevel(t, func(t *testing.T) {
		for _, threads := range []int{1, 2, 7} {
			a := definite(4, 450, 500, 0.1)
			f, err := Factor(a, threads)
			if err != nil {
				t.Fatal(err)
			}
			b := random(5, 37, 450)
			f.SolveRight(b)
			got := append(slices.Clone(f.Inverse().Data), b.Data...)
			if want == nil {
				want = got
			} else if !slices.Equal(got, want) {
				t.Errorf("%d threads: other bits", threads)
			}
		}
	})
}

func TestAddRows(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, s := range [][2]int{{0, 5}, {1, 1}, {3, 128}, {64, 300}} {
			whole := random(1, s[0], s[1]+5)
			m, by, to := whole.View(0, s[0], 2, s[1]+2), random(2, 1, s[0]).Data, random(3, 1, s[1]).Data
			want := slices.Clone(to)
			for j := range want {
				for i, x := range by {
					want[j] = math.FMA(x, m.At(i, j), want[j])
				}
			}
			AddRows(to, m, by)
			if !slices.Equal(to, want) {
				t.Errorf("%v: got %v, want %v", s, to, want)
			}
		}
	})
}

func TestAddFloat32(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, n := range []int{0, 1, 31, 32, 100} {
			to, x := random(1, 1, n+3).Data, make([]float32, n)
			want := slices.Clone(to)
			for i := range x {
				x[i] = float32(i) / 7
				want[i] += float64(x[i])
			}
			AddFloat32(to, x)
			if !slices.Equal(to, want) {
				t.Errorf("%d values: got %v, want %v", n, to, want)
			}
		}
	})
}

func TestLowerTriangle(t *testing.T) {
	a, b := random(1, 75, 40), random(2, 75, 40)
	full, lower := New(75, 75), New(75, 75)
	AddMulT(full, -1, a, b, 2)
	AddTMulLower(lower, -1, transposedOf(a), transposedOf(b), 2)
	for i := range 75 {
		for j := range i + 1 {
			if lower.At(i, j) != full.At(i, j) {
				t.Fatalf("element %d, %d is %v, want %v", i, j, lower.At(i, j), full.At(i, j))
			}
		}
	}
}

func transposedOf(m *Matrix) *Matrix {
	t := New(m.Cols, m.Rows)
	for i := range m.Rows {
		for j, x := range m.Row(i) {
			t.Row(j)[i] = x
		}
	}
	return t
}

func TestShrinkLower(t *testing.T) {
	m := random(1, 9, 11).View(0, 9, 1, 10)
	stay := []int{0, 3, 4, 8}
	want := m.Select(stay, stay)
	m.ShrinkLower(stay)
	if m.Rows != 4 || m.Cols != 4 {
		t.Fatalf("%d x %d are left", m.Rows, m.Cols)
	}
	for i := range 4 {
		for j := range i + 1 {
			if m.At(i, j) != want.At(i, j) {
				t.Errorf("element %d, %d is %v, want %v", i, j, m.At(i, j), want.At(i, j))
			}
		}
	}
}

func TestTranspose(t *testing.T) {
	for _, n := range []int{1, 31, 70} {
		a := random(3, n, n+2).View(0, n, 1, n+1)
		b := a.Clone()
		b.Transpose()
		for i := range n {
			for j := range n {
				if b.At(i, j) != a.At(j, i) {
					t.Fatalf("n %d: element %d, %d is wrong", n, i, j)
				}
			}
		}
	}
}

func TestCholesky(t *testing.T) {
	for _, n := range []int{1, 2, 63, 64, 65, 200, 450} {
		a := definite(uint64(n), n, 2*n, 0.01)
		f, err := Factor(a.Clone(), 2)
		if err != nil {
			t.Fatal(err)
		}
		product := New(n, n) // L L'
		for i := range n {
			for j := range n {
				for k := 0; k <= min(i, j); k++ {
					product.Data[i*n+j] += f.l.At(i, k) * f.l.At(j, k)
				}
			}
		}
		if d := maxDiff(product, a); d > 1e-12 {
			t.Errorf("n %d: L L' is off by %g", n, d)
		}
		b := random(9, 11, n)
		x := b.Clone()
		f.SolveRight(x)
		back := New(11, n)
		AddMulT(back, 1, x, a, 1) // a is symmetric
		if d := maxDiff(back, b); d > 1e-9 {
			t.Errorf("n %d: (B A^-1) A is off by %g", n, d)
		}
		product = New(11, n) // B = (B L'^-1) L'
		half := b.Clone()
		f.SolveFactor(half)
		for i := range 11 {
			for j := range n {
				for k := 0; k <= j; k++ {
					product.Data[i*n+j] += half.At(i, k) * f.l.At(j, k)
				}
			}
		}
		if d := maxDiff(product, b); d > 1e-9 {
			t.Errorf("n %d: (B L'^-1) L' is off by %g", n, d)
		}
		want := New(11, n) // B L
		for i := range 11 {
			for j := range n {
				for k := j; k < n; k++ {
					want.Data[i*n+j] += b.At(i, k) * f.l.At(k, j)
				}
			}
		}
		if d := maxDiff(f.MulFactor(b), want); d > 1e-9 {
			t.Errorf("n %d: B L is off by %g", n, d)
		}
		identity := New(n, n)
		AddMulT(identity, 1, f.Inverse(), a, 1)
		identity.AddDiagonal(-1)
		if d := maxDiff(identity, New(n, n)); d > 1e-9 {
			t.Errorf("n %d: A^-1 A is off the identity by %g", n, d)
		}
	}
}

func TestSingular(t *testing.T) {
	a := definite(1, 100, 150, 0)
	for i := range 100 { // row 70 becomes row 20
		a.Data[70*100+i] = a.At(20, i)
	}
	for i := range 100 {
		a.Data[i*100+70] = a.At(i, 20)
	}
	a.Data[70*100+70] = a.At(20, 20) * (1 - 1e-9)
	_, err := Factor(a, 2)
	var singular *NotPositiveError
	if !errors.As(err, &singular) || singular.Index != 70 {
		t.Errorf("got %v, want row 70", err)
	}
	if _, err := Factor(New(3, 3), 1); err == nil {
		t.Error("a matrix of zeros was factorised")
	}
	nan := definite(1, 3, 5, 1)
	nan.Data[4] = math.NaN()
	if _, err := Factor(nan, 1); err == nil {
		t.Error("NaN was factorised")
	}
}

func BenchmarkFactor(b *testing.B) {
	for _, n := range []int{1536, 4096, 8192} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%d/threads=%d", n, threads), func(b *testing.B) {
				a := definite(1, n, 64, 1)
				f := NewPadded(n, n)
				for b.Loop() {
					for i := range n {
						copy(f.Row(i), a.Row(i))
					}
					if _, err := Factor(f, threads); err != nil {
						b.Fatal(err)
					}
				}
				gflops(b, float64(n)*float64(n)*float64(n)/3)
			})
		}
	}
}

// The update of a triangle by a few columns, and a product that is large in all directions.
func BenchmarkProduct(b *testing.B) {
	for _, s := range []struct {
		n, k  int
		lower bool
	}{{1536, 64, true}, {8192, 64, true}, {1536, 1536, false}} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%dx%d/lower=%v/threads=%d", s.n, s.k, s.lower, threads), func(b *testing.B) {
				x, c := random(1, s.n, s.k), NewPadded(s.n, s.n)
				flops := 2 * float64(s.n) * float64(s.n) * float64(s.k)
				run := AddMulT
				if s.lower {
					x, run, flops = transposedOf(x), AddTMulLower, flops/2
				}
				for b.Loop() {
					run(c, -1, x, x, threads)
				}
				gflops(b, flops)
			})
		}
	}
}

func gflops(b *testing.B, flops float64) {
	b.ReportMetric(flops/1e9/b.Elapsed().Seconds()*float64(b.N), "GFLOP/s")
}
