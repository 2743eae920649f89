package eval

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Bootstraps draw from a generator with a fixed seed, so that equal data give equal
// numbers. BootstrapIterations is the number of resamples; the standard error that it
// gives is itself known to about 1/sqrt(2*10,000), 0.7 %.
const (
	BootstrapIterations = 10_000
	bootstrapSeed       = 1234
)

// Mean returns the arithmetic mean, NaN for no values.
func Mean(xs []float64) float64 {
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return sum / float64(len(xs))
}

// StdErr returns the standard error of the mean, s/sqrt(n) with s the sample standard
// deviation (divisor n-1). It is NaN for fewer than two values.
func StdErr(xs []float64) float64 {
	if len(xs) < 2 {
		return math.NaN()
	}
	mean, sum := Mean(xs), 0.0
	for _, x := range xs {
		sum += (x - mean) * (x - mean)
	}
	n := float64(len(xs))
	return math.Sqrt(sum/(n-1)) / math.Sqrt(n)
}

// PooledStdErr returns the standard error of the size-weighted mean of k means with
// standard errors se and sizes n, from the pooled variance:
//
//	sqrt( sum((n_i-1) n_i se_i^2) / (sum n_i - k) / sum n_i )
//
// (lm-eval: pooled_sample_stderr).
func PooledStdErr(se []float64, n []int) float64 {
	variance, total := 0.0, 0
	for i := range se {
		variance += float64(n[i]-1) * float64(n[i]) * se[i] * se[i]
		total += n[i]
	}
	return math.Sqrt(variance / float64(total-len(se)) / float64(total))
}

// McNemar returns the two-sided p value of McNemar's exact test: b records were right for
// the first model alone, c for the second alone. Where the models do not differ each of
// these b+c records fell to either side as a coin does, so
//
//	p = min(1, 2 * sum_{i=0}^{min(b,c)} C(b+c, i) / 2^(b+c))
func McNemar(b, c int) float64 {
	n, tail := b+c, 0.0
	for i := range min(b, c) + 1 {
		tail += math.Exp(logBinomial(n, i) - float64(n)*math.Ln2)
	}
	return min(1, 2*tail)
}

// logBinomial returns the natural logarithm of the number of ways to choose k out of n.
func logBinomial(n, k int) float64 {
	lgamma := func(x int) float64 {
		v, _ := math.Lgamma(float64(x + 1))
		return v
	}
	return lgamma(n) - lgamma(k) - lgamma(n-k)
}

// bootstrap returns the values of a statistic over BootstrapIterations resamples: each is
// n indices drawn with replacement from 0..n-1.
func bootstrap(n int, statistic func(sample []int) float64) []float64 {
	rng := rand.New(rand.NewPCG(bootstrapSeed, 0))
	sample := make([]int, n)
	values := make([]float64, BootstrapIterations)
	for i := range values {
		for j := range sample {
			sample[j] = rng.IntN(n)
		}
		values[i] = statistic(sample)
	}
	return values
}

// bootstrapStdErr returns the standard deviation (divisor n-1) of f(mean of the resampled
// log-likelihood per unit): the standard error of a perplexity. NaN for fewer than two
// records, +Inf where a resample overflows.
func bootstrapStdErr(ll, weights []float64, f func(mean float64) float64) float64 {
	if len(ll) < 2 {
		return math.NaN()
	}
	values := bootstrap(len(ll), func(sample []int) float64 { return f(weightedMean(ll, weights, sample)) })
	if slices.ContainsFunc(values, func(v float64) bool { return math.IsInf(v, 0) }) {
		return math.Inf(1)
	}
	return StdErr(values) * math.Sqrt(float64(len(values)))
}

// weightedMean is the sum of ll over the sum of weights, over the records of sample.
func weightedMean(ll, weights []float64, sample []int) float64 {
	sum, weight := 0.0, 0.0
	for _, i := range sample {
		sum += ll[i]
		weight += weights[i]
	}
	return sum / weight
}

// PairedBootstrap compares the log-likelihoods per unit (a word, a byte, a document) that
// two models give to the same records: ll[i] over weight[i] units. It returns a 95 %
// interval (percentile method) of the change mean(b) - mean(a), which is the logarithm of
// perplexity a over perplexity b, and the two-sided p value of no change,
// 2 min(#{<=0}, #{>=0}) + 1 over resamples + 1 and at most 1. Both are NaN for fewer than
// two records.
func PairedBootstrap(a, b, weightA, weightB []float64) (low, high, p float64) {
	if len(a) < 2 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	change := bootstrap(len(a), func(sample []int) float64 {
		return weightedMean(b, weightB, sample) - weightedMean(a, weightA, sample)
	})
	notAbove, notBelow := 0, 0
	for _, d := range change {
		if d <= 0 {
			notAbove++
		}
		if d >= 0 {
			notBelow++
		}
	}
	slices.Sort(change)
	tail := len(change) / 40 // 2.5 %
	n := float64(len(change))
	p = min(1, (2*float64(min(notAbove, notBelow))+1)/(n+1))
	return change[tail], change[len(change)-1-tail], p
}
