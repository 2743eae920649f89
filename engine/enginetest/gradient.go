package enginetest

import (
	"context"
	"math"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// testGradient compares gradients with differences of the loss, for every family.
func testGradient(t *testing.T, _ Opener, layerwise LayerwiseOpener) {
	cases, err := Recordings()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			m := model(t, string(c.Config))
			batch, _ := forest(80) // more than a tile of queries
			l := layerwise(t, m, Options{Threads: 2, MaxLength: 128}).(engine.Backward)
			checkGradient(t, l, batch)
		})
	}
}

// checkGradient differentiates the divergence from a stream that is a little off.
func checkGradient(t *testing.T, l engine.Backward, batch engine.Batch) {
	t.Helper()
	ctx, h := context.Background(), l.Model().Hidden
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	size := batch.Tokens() * h
	streams := make([][]float32, len(l.Model().Layers)+1)
	for i := range streams {
		streams[i] = make([]float32, size)
	}
	layer := func(i int) engine.BackwardLayer {
		layer, err := l.Layer(ctx, i)
		must(err)
		return layer.(engine.BackwardLayer)
	}
	must(l.Embed(ctx, batch, streams[0]))
	for i := range l.Model().Layers {
		copy(streams[i+1], streams[i])
		must(layer(i).Run(ctx, batch, streams[i+1], nil))
	}
	last := streams[len(streams)-1]
	reference := noisy(last, float32(0.5*math.Sqrt(dot(last, last)/float64(size))), 1)
	// loss runs the layers from one on.
	loss := func(from int, stream []float32) float64 {
		s := append([]float32(nil), stream...)
		for i := from; i < len(l.Model().Layers); i++ {
			must(layer(i).Run(ctx, batch, s, nil))
		}
		all, err := l.Divergence(ctx, batch, reference, s)
		must(err)
		sum := 0.0
		for _, v := range all {
			sum += v
		}
		return sum
	}
	gradient := make([]float32, size)
	all, err := l.DivergenceGradient(ctx, batch, reference, last, gradient)
	must(err)
	sum := 0.0
	for _, v := range all {
		sum += v
	}
	if want := loss(len(l.Model().Layers), last); math.Abs(sum-want) > 1e-4*want {
		t.Errorf("a divergence of %v, Divergence says %v", sum, want)
	}
	for i := len(l.Model().Layers); ; i-- {
		for seed := range 3 {
			direction := make([]float32, size)
			if seed == 0 { // along the gradient itself
				copy(direction, gradient)
			} else {
				copy(direction, noisy(direction, 1, uint64(seed)))
			}
			norm := math.Sqrt(dot(direction, direction))
			step := 2e-3 * math.Sqrt(dot(streams[i], streams[i]))
			slope := func(step float64) float64 {
				s, back := append([]float32(nil), streams[i]...), append([]float32(nil), streams[i]...)
				for k, d := range direction {
					s[k] += float32(step / norm * float64(d))
					back[k] -= float32(step / norm * float64(d))
				}
				return (loss(i, s) - loss(i, back)) / (2 * step)
			}
			got := dot(gradient, direction) / norm
			want := (4*slope(step/2) - slope(step)) / 3 // without the error of third order
			scale := math.Sqrt(dot(gradient, gradient))
			if math.Abs(got-want) > 5e-3*scale {
				t.Errorf("before layer %d, direction %d: slope %v, differences give %v (gradient of length %v)", i, seed, got, want, scale)
			}
		}
		if i == 0 {
			return
		}
		must(layer(i-1).Back(ctx, batch, streams[i-1], gradient, nil))
	}
}

// noisy is x with reproducible noise of that size.
func noisy(x []float32, size float32, seed uint64) []float32 {
	y := append([]float32(nil), x...)
	z := seed
	for i := range y {
		z = z*6364136223846793005 + 1442695040888963407
		y[i] += size * (float32(z>>40)/(1<<23) - 1)
	}
	return y
}

func dot(x, y []float32) float64 {
	sum := 0.0
	for i, v := range x {
		sum += float64(v) * float64(y[i])
	}
	return sum
}
