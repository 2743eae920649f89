//go:build !amd64

package tensor

func decodeF32(dst []float32, src []byte)      { decodeF32Go(dst, src) }
func decodeF16(dst []float32, src []byte)      { decodeF16Go(dst, src) }
func decodeBF16(dst []float32, src []byte)     { decodeBF16Go(dst, src) }
func encodeF32(dst []byte, src []float32)      { encodeF32Go(dst, src) }
func encodeF16(dst []byte, src []float32) int  { return encodeF16Go(dst, src) }
func encodeBF16(dst []byte, src []float32) int { return encodeBF16Go(dst, src) }

func minMax16(src []byte) (lo, hi int16) { return minMax16Go(src) }
func minMax32(src []byte) (lo, hi int32) { return minMax32Go(src) }
func maxMagnitude16(src []byte) uint16   { return maxMagnitude16Go(src) }
func maxMagnitude32(src []byte) uint32   { return maxMagnitude32Go(src) }

func sumsF32(acc *moments, src []byte)  { sumsF32Go(acc, src) }
func sumsF16(acc *moments, src []byte)  { sumsF16Go(acc, src) }
func sumsBF16(acc *moments, src []byte) { sumsBF16Go(acc, src) }

func latticeSums(r *latticeResult, x, w []float32, base, inv *perLane, lo, hi float32) {
	latticeSumsGo(r, x, w, base, inv, lo, hi)
}

func quantiseFast(dst []byte, src []float32, d DType) (blocks int) { return 0 }
