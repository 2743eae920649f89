package tensor

// The K-quants: 256 elements in sub-blocks of 16 or 32, whose scales (and minima) are
// small integers that F16 numbers scale in turn. The product of both scales is
// rounded to float32 before it meets an element.
//
// Numbers of 2 bits lie in groups of 32 bytes that hold 128 elements: element j of the
// bytes' bits 0-1, then of bits 2-3, and so on. So sub-block s of 16 elements stands in
// bytes sub16(s) at bit shift16(s).

func sub16(s int) int     { return s/8*32 + s%2*16 }
func shift16(s int) uint8 { return uint8(s % 8 / 2 * 2) }

// blockQ2_K: 16 bytes, one a sub-block of 16: scale in the low nibble, minimum in the
// high one; 64 bytes of 2-bit q; F16 d, F16 dmin.
func blockQ2_K(y []float32, b []byte) {
	d, dmin := halfAt(b[80:]), halfAt(b[82:])
	for s, sc := range b[:16] {
		dl, ml := d*float32(sc&15), float32(dmin*float32(sc>>4))
		shift, out := shift16(s), y[16*s:][:16]
		for j, q := range b[16+sub16(s):][:16] {
			out[j] = float32(dl*float32(q>>shift&3)) - ml
		}
	}
}

// blockQ3_K: 32 bytes of third bits, 64 bytes of 2-bit q, 12 bytes of 6-bit scales,
// F16 d. Element j of the s-th 32 elements has its third bit in bit s of byte j; where
// it is clear, 4 is subtracted.
func blockQ3_K(y []float32, b []byte) {
	high, low, scales, d := b[:32], b[32:96], b[96:108], halfAt(b[108:])
	for s := range 16 {
		// Low nibbles: scales 0-7, then 8-15 in bytes 0-7. High pairs: four a bit position in bytes 8-11.
		sc := scales[s%8]>>(s/8*4)&15 | scales[8+s%4]>>(s/4*2)&3<<4
		dl := d * float32(int(sc)-32)
		shift, out := shift16(s), y[16*s:][:16]
		third := high[s%2*16:][:16]
		for j, q := range low[sub16(s):][:16] {
			v := int(q >> shift & 3)
			if third[j]>>(s/2)&1 == 0 {
				v -= 4
			}
			out[j] = dl * float32(v)
		}
	}
}

// scaleMin gives the 6-bit scale and minimum of sub-block s (of 8) from the 12 bytes
// that Q4_K and Q5_K share: bytes 0-3 and 4-7 hold those of 0-3, and in their top two
// bits the upper bits of those of 4-7; bytes 8-11 hold the lower four bits of these,
// scale in the low nibble and minimum in the high one.
func scaleMin(b []byte, s int) (scale, minimum float32) {
	if s < 4 {
		return float32(b[s] & 63), float32(b[s+4] & 63)
	}
	return float32(b[s+4]&15 | b[s-4]>>6<<4), float32(b[s+4]>>4 | b[s]>>6<<4)
}

// blockQ4_K: F16 d, F16 dmin, 12 bytes of scales and minima, 128 bytes of 4-bit q: each
// 32 bytes hold the 32 elements of one sub-block in their low nibbles, the next in the high.
func blockQ4_K(y []float32, b []byte) {
	d, dmin := halfAt(b), halfAt(b[2:])
	for s := range 8 {
		sc, m := scaleMin(b[4:16], s)
		dl, ml := d*sc, float32(dmin*m)
		shift, out := s%2*4, y[32*s:][:32]
		for j, q := range b[16+s/2*32:][:32] {
			out[j] = float32(dl*float32(q>>shift&15)) - ml
		}
	}
}

// blockQ5_K: as Q4_K with 32 bytes of fifth bits before q; element j of sub-block s has
// its own in bit s of byte j.
func blockQ5_K(y []float32, b []byte) {
	d, dmin := halfAt(b), halfAt(b[2:])
	fifth := b[16:48]
	for s := range 8 {
		sc, m := scaleMin(b[4:16], s)
		dl, ml := d*sc, float32(dmin*m)
		shift, out := s%2*4, y[32*s:][:32]
		for j, q := range b[48+s/2*32:][:32] {
			out[j] = float32(dl*float32(q>>shift&15|fifth[j]>>s&1<<4)) - ml
		}
	}
}

// blockQ6_K: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales,
// F16 d; the 6-bit number is q + 32. 64 bytes of nibbles hold 128 elements, 64 in the
// low nibbles and 64 in the high ones; 32 bytes of pairs hold the same 128.
func blockQ6_K(y []float32, b []byte) {
	low, high, scales, d := b[:128], b[128:192], b[192:208], halfAt(b[208:])
	for s := range 16 {
		dl := d * float32(int8(scales[s]))
		shift, out := s%8/4*4, y[16*s:][:16]
		pair, pairShift := high[sub16(s):][:16], shift16(s)
		for j, q := range low[s/8*64+s%4*16:][:16] {
			v := q>>shift&15 | pair[j]>>pairShift&3<<4
			out[j] = dl * float32(int(v)-32)
		}
	}
}
