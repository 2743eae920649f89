// Package peak measures what this machine can do at most, so that benchmarks can say
// what share of it a kernel reaches: loops of multiply-adds on registers, and loops of
// loads.
package peak
