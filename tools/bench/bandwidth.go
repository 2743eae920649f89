//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// bandwidth is how fast this machine reads, in GB/s by method. Memory holds anonymous
// pages; Cached the checkpoint's pages in the page cache, which is what a program that
// reads a file can get at best, and is shown beside it.
type bandwidth struct {
	Memory map[string]float64 `json:"memory_gb_s"`
	Cached map[string]float64 `json:"page_cache_gb_s,omitempty"`
}

// best is the fastest way to read memory that was found.
func (b bandwidth) best() float64 {
	var most float64
	for _, rate := range b.Memory {
		most = max(most, rate)
	}
	return most
}

const (
	bandwidthBytes = 2 << 30 // far more than any cache
	filler         = 0x55    // every byte of the buffer, so that the searches run to its end
)

// printBandwidth measures, and prints a bandwidth as JSON. One method alone could be slow
// for reasons of its own, so it takes the best of loads added up by plain Go, and of the
// standard library's vector loops for one stream and for two. Without a model the page
// cache is left out.
func printBandwidth(model string) error {
	buffer, err := mapBuffer()
	if err != nil {
		return err
	}
	result := bandwidth{Memory: map[string]float64{}, Cached: map[string]float64{}}
	for name, read := range readers {
		for threads := 1; threads <= runtime.NumCPU(); threads *= 2 {
			rate, err := timeReads(buffer, threads, 3, read)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			result.Memory[fmt.Sprintf("%s, %d threads", name, threads)] = rate
		}
	}
	if err := syscall.Munmap(buffer); err != nil {
		return err
	}
	if err := cachedBandwidth(model, result.Cached); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// mapBuffer returns the memory to read.
func mapBuffer() ([]byte, error) {
	buffer, err := syscall.Mmap(-1, 0, bandwidthBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("2 GiB of memory to read: %w", err)
	}
	// Large pages only make it faster; where there are none, small ones serve.
	_ = syscall.Madvise(buffer, madvHugePage)
	for i := range buffer {
		buffer[i] = filler
	}
	return buffer, nil
}

// memoryJob is reading bandwidthBytes of memory once, by the method that is the fastest
// here.
func memoryJob(o workerOptions) (job, error) {
	buffer, err := mapBuffer()
	if err != nil {
		return job{}, err
	}
	var fastest func([]byte) bool
	most := 0.0
	for _, read := range readers {
		rate, err := timeReads(buffer, o.threads, 3, read)
		if err != nil {
			return job{}, err
		}
		if rate > most {
			most, fastest = rate, read
		}
	}
	return job{
		run: func() error {
			_, err := timeReads(buffer, o.threads, 1, fastest)
			return err
		},
		value: func() float64 { return 0 },
	}, nil
}

const madvHugePage = 14 // MADV_HUGEPAGE, which package syscall does not name

// readers each read all of a part; a wrong answer means that it did not.
var readers = map[string]func([]byte) bool{
	"sum":    func(part []byte) bool { return sum(part) != 0 },
	"search": func(part []byte) bool { return bytes.IndexByte(part, ^byte(filler)) < 0 },
	"compare": func(part []byte) bool {
		half := len(part) / 2
		return bytes.Equal(part[:half], part[half:])
	},
}

// sum adds up a part, 64 bytes at a time in eight chains.
func sum(part []byte) uint64 {
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(part))), len(part)/8)
	var a, b, c, d, e, f, g, h uint64
	for len(words) >= 8 {
		w := words[:8:8]
		a, b, c, d = a+w[0], b+w[1], c+w[2], d+w[3]
		e, f, g, h = e+w[4], f+w[5], g+w[6], h+w[7]
		words = words[8:]
	}
	return a + b + c + d + e + f + g + h
}

// timeReads has each thread read its share, some times, and returns the best rate in GB/s.
func timeReads(buffer []byte, threads, times int, read func([]byte) bool) (float64, error) {
	share := len(buffer) / threads &^ 4095
	parts := slices.Collect(slices.Chunk(buffer[:share*threads], share))
	best := 0.0
	for range times {
		good := make([]bool, threads)
		var group sync.WaitGroup
		start := time.Now()
		for i, part := range parts {
			group.Go(func() { good[i] = read(part) })
		}
		group.Wait()
		took := time.Since(start).Seconds()
		if slices.Contains(good, false) {
			return 0, errors.New("did not read what was written")
		}
		best = max(best, float64(share*threads)/1e9/took)
	}
	return best, nil
}

// cachedBandwidth reads the first shard, warm, by every core: copied out of the page
// cache by read calls, and through a fresh mapping, whose pages the kernel has to enter
// first.
func cachedBandwidth(model string, rates map[string]float64) error {
	paths, err := filepath.Glob(filepath.Join(model, "*.safetensors"))
	if err != nil || len(paths) == 0 {
		return fmt.Errorf("%s holds no shard: %v", model, err)
	}
	file, err := os.Open(paths[0])
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := int(min(info.Size(), bandwidthBytes)) &^ 4095
	byRead := func(offset, n int) error {
		buffer := make([]byte, 1<<20)
		for end := offset + n; offset < end; offset += len(buffer) {
			if _, err := file.ReadAt(buffer[:min(len(buffer), end-offset)], int64(offset)); err != nil {
				return err
			}
		}
		return nil
	}
	byMapping := func(offset, n int) error {
		pages, err := syscall.Mmap(int(file.Fd()), int64(offset), n, syscall.PROT_READ, syscall.MAP_SHARED)
		if err != nil {
			return err
		}
		sum(pages)
		return syscall.Munmap(pages)
	}
	for name, read := range map[string]func(offset, n int) error{"read": byRead, "mapped": byMapping} {
		threads := runtime.NumCPU()
		share := size / threads &^ 4095
		var rate float64
		for range 4 { // the first also warms the cache
			errs := make([]error, threads)
			var group sync.WaitGroup
			start := time.Now()
			for i := range threads {
				group.Go(func() { errs[i] = read(i*share, share) })
			}
			group.Wait()
			if err := errors.Join(errs...); err != nil {
				return err
			}
			rate = max(rate, float64(share*threads)/1e9/time.Since(start).Seconds())
		}
		rates[name] = rate
	}
	return nil
}
