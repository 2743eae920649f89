package kernel

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
	"github.com/coppice-lm/coppice/tensor"
)

// BlockSize is the number of weights that share a scale in Q8_0, Q4_0 and Q4_1, and of
// activations in Q8.
const BlockSize = 32

// Quant holds the weights W (Out x In) of a linear layer in one of GGUF's block types
// Q8_0, Q4_0 or Q4_1, regrouped into panels of 32 output columns without loss: it
// takes as many bytes as in the file (the last panel is filled up with zeros).
//
// In a panel the 32 blocks of one inner block index stand together: 32 half-precision
// scales, for Q4_1 also 32 offsets, then the quants. Quants of four successive inner
// elements are adjacent for one column, and the 32 columns follow one another: 128
// bytes a group of four for Q8_0; with 4 bits group g is in the low halves and group
// g+4 in the high halves of 128 bytes.
type Quant struct {
	Type    tensor.DType
	Out, In int
	data    []byte
}

// PackQuant packs the out x in weights that row delivers as GGUF blocks of type t,
// in/32 blocks a row; see PackF32. in is a multiple of 32.
func PackQuant(t tensor.DType, out, in int, row func(o int, dst []byte) error) (*Quant, error) {
	w, err := NewQuant(nil, t, out, in)
	if err != nil {
		return nil, err
	}
	return w, w.Pack(0, w.Panels(), row)
}

// NewQuant returns packed weights of zeros in m, to be filled by Pack.
func NewQuant(m *Memory, t tensor.DType, out, in int) (*Quant, error) {
	if err := checkWeights(t.String(), out, in); err != nil {
		return nil, err
	}
	if t != tensor.Q8_0 && t != tensor.Q4_0 && t != tensor.Q4_1 {
		return nil, fmt.Errorf("packing %s weights: only Q8_0, Q4_0 and Q4_1 have a product of their own; dequantise others", t)
	}
	if in%BlockSize != 0 {
		return nil, fmt.Errorf("packing %s weights of %d x %d: the inner size must be a multiple of %d", t, out, in, BlockSize)
	}
	w := &Quant{Type: t, Out: out, In: in}
	w.data = take[byte](m, w.Panels()*w.panelBytes())
	return w, nil
}

// Panels is the number of panels, ceil(Out/32).
func (w *Quant) Panels() int { return panels(w.Out) }

// groupBytes is the size of the 32 blocks that stand together.
func (w *Quant) groupBytes() int { return param.NR * w.Type.BlockBytes() }

func (w *Quant) panelBytes() int { return w.In / BlockSize * w.groupBytes() }

// Pack fills panels p0..p1 as PackQuant does. Threads may fill different panels at the
// same time if row allows it.
func (w *Quant) Pack(p0, p1 int, row func(o int, dst []byte) error) error {
	size := w.Type.BlockBytes()
	buf := make([]byte, w.In/BlockSize*size)
	for o := p0 * param.NR; o < min(p1*param.NR, w.Out); o++ {
		if err := row(o, buf); err != nil {
			return err
		}
		panel := w.data[o/param.NR*w.panelBytes():]
		for b := range w.In / BlockSize {
			w.packBlock(panel[b*w.groupBytes():], o%param.NR, buf[b*size:][:size])
		}
	}
	return nil
}

// packBlock puts one GGUF block in place as column j of its group. A block is its
// scale (Q4_1: and offset) followed by 32 signed bytes, or by 16 bytes of which byte i
// has element i in its low half and element i+16 in its high half.
func (w *Quant) packBlock(group []byte, j int, block []byte) {
	head := w.headWords()
	for h := range head {
		copy(group[(h*param.NR+j)*2:][:2], block[2*h:])
	}
	group, quants := group[head*param.NR*2:], block[head*2:]
	for i := 0; i < len(quants); i += 4 {
		copy(group[i/4*param.NR*4+j*4:][:4], quants[i:])
	}
}

// headWords is the number of half-precision values before a block's quants.
func (w *Quant) headWords() int {
	if w.Type == tensor.Q4_1 {
		return 2
	}
	return 1
}

// Q8 holds rows of activations in blocks of 32 bytes with a float32 scale, as the
// products with block weights take them. An element is off by at most half a step,
// max|block|/254.
type Q8 struct {
	in    int
	quant []int8    // rows x in
	scale []float32 // rows x in/32
	sum   []int32   // rows x in/32: sum of the block's quants
}

// Resize makes room for rows rows of in elements (a multiple of 32), and forgets what q
// held.
func (q *Q8) Resize(rows, in int) {
	if in < 1 || in%BlockSize != 0 || rows < 0 {
		panic(fmt.Sprintf("kernel: Q8.Resize: %d rows of %d elements", rows, in))
	}
	blocks := in / BlockSize
	q.in = in
	q.quant, q.scale, q.sum = growTo(q.quant, rows*in), growTo(q.scale, rows*blocks), growTo(q.sum, rows*blocks)
}

// Slice is rows r0 to r1 of q, in the same memory.
func (q *Q8) Slice(r0, r1 int) Q8 {
	blocks := q.in / BlockSize
	return Q8{
		in: q.in, quant: q.quant[r0*q.in : r1*q.in],
		scale: q.scale[r0*blocks : r1*blocks], sum: q.sum[r0*blocks : r1*blocks],
	}
}

// Part is elements c0 to c1 of row r, multiples of BlockSize, as one row in the same
// memory.
func (q *Q8) Part(r, c0, c1 int) Q8 {
	blocks := q.in / BlockSize
	b0, b1 := r*blocks+c0/BlockSize, r*blocks+c1/BlockSize
	return Q8{in: c1 - c0, quant: q.quant[r*q.in+c0 : r*q.in+c1], scale: q.scale[b0:b1], sum: q.sum[b0:b1]}
}

// rows is the number of rows.
func (q *Q8) rows() int { return len(q.scale) * BlockSize / max(q.in, 1) }

// Quantise makes the rows of q those of x, which begin ldx apart. Rounding is to the
// nearest, ties to even. A block with a NaN or Inf becomes NaN as a whole.
func (q *Q8) Quantise(x []float32, ldx int) {
	rows, in, blocks := q.rows(), q.in, q.in/BlockSize
	if rows > 0 && (ldx < in || len(x) < (rows-1)*ldx+in) {
		panic(fmt.Sprintf("kernel: Q8.Quantise: %d rows of %d out of %d elements (row distance %d)", rows, in, len(x), ldx))
	}
	for t := range rows {
		quant := q.quant[t*in:][:in]
		scale, sum := q.scale[t*blocks:][:blocks], q.sum[t*blocks:][:blocks]
		row := x[t*ldx:][:in]
		blockTops(scale, row)
		var inv [64]float32
		for b0 := 0; b0 < blocks; b0 += len(inv) {
			b1 := min(b0+len(inv), blocks)
			for b := b0; b < b1; b++ {
				scale[b], inv[b-b0] = step(scale[b])
			}
			roundBlocks(quant[b0*BlockSize:b1*BlockSize], row[b0*BlockSize:b1*BlockSize], inv[:b1-b0], sum[b0:b1])
			for b := b0; b < b1; b++ {
				if inv[b-b0] == 0 {
					clear(quant[b*BlockSize:][:BlockSize])
					sum[b] = 0
				}
			}
		}
	}
}

// step is the step of a block with the greatest magnitude top, and its inverse: 0 for
// a block that has none, being zero (or below 1e-36, where the inverse overflows), or
// not finite.
func step(top float32) (scale, inv float32) {
	scale, inv = top/127, 127/top
	switch {
	case inv > 0 && inv <= maxF32:
		return scale, inv
	case top < 1:
		return 0, 0
	}
	return top - top, 0 // NaN
}

// blockTopsTwin sets top to each block's greatest magnitude, by its bits: an infinity
// is above all numbers, a NaN above all.
func blockTopsTwin(top, x []float32) {
	for b := range top {
		var m uint32
		for _, v := range x[b*BlockSize:][:BlockSize] {
			m = max(m, math.Float32bits(v)&^signBit)
		}
		top[b] = math.Float32frombits(m)
	}
}

// roundBlocksTwin rounds each block times its inverse step, and sums what it gives.
func roundBlocksTwin(dst []int8, x, inv []float32, sum []int32) {
	for b, f := range inv {
		sum[b] = 0
		for i, v := range x[b*BlockSize:][:BlockSize] {
			n := int32(math.RoundToEven(float64(v * f)))
			dst[b*BlockSize+i] = int8(n)
			sum[b] += n
		}
	}
}

// Mul computes dst[t*ldd+o] = sum over i of x[t,i]*W[o,i] for the rows t of x and the
// columns o of panels p0..p1. Within a block the product is of integers and exact;
// blocks are added in float32 in ascending order, one fused multiply-add each (Q4_1:
// two, scale before offset). The error against float32 activations is that of their
// quantisation. Other columns of dst are not touched.
func (w *Quant) Mul(dst []float32, ldd int, x *Q8, p0, p1 int) {
	rows := x.rows()
	if x.in != w.In {
		panic(fmt.Sprintf("kernel: Quant.Mul: activations have %d elements, weights %d", x.in, w.In))
	}
	checkProduct("Quant", len(dst), ldd, rows*w.In, w.In, w.Out, w.In, rows, p0, p1)
	blocks := w.In / BlockSize
	for p := p0; p < p1; p++ {
		panel := w.data[p*w.panelBytes():][:w.panelBytes()]
		at := p * param.NR
		for t := range rows {
			quant, scale, sum := x.quant[t*w.In:][:w.In], x.scale[t*blocks:][:blocks], x.sum[t*blocks:][:blocks]
			if at+param.NR <= w.Out {
				w.column((*[param.NR]float32)(dst[t*ldd+at:]), panel, quant, scale, sum)
				continue
			}
			last := new([param.NR]float32)
			w.column(last, panel, quant, scale, sum)
			copy(dst[t*ldd+at:t*ldd+w.Out], last[:])
		}
	}
}

// column multiplies one row of activations by one panel.
func (w *Quant) column(acc *[param.NR]float32, panel []byte, x []int8, scale []float32, sum []int32) {
	if quantAsm(w.Type, acc, panel, x, scale, sum) {
		return
	}
	clear(acc[:])
	head := w.headWords()
	for b, dx := range scale {
		group := panel[b*w.groupBytes():]
		xs := x[b*BlockSize:][:BlockSize]
		for j := range param.NR {
			d := widenF16(binary.LittleEndian.Uint16(group[2*j:]))
			n := blockDot(w.Type, group[head*param.NR*2+j*4:], xs)
			if w.Type == tensor.Q4_0 {
				n -= 8 * sum[b]
			}
			acc[j] = fma32(float32(n), d*dx, acc[j])
			if w.Type == tensor.Q4_1 {
				m := widenF16(binary.LittleEndian.Uint16(group[(param.NR+j)*2:]))
				acc[j] = fma32(m, float32(float32(sum[b])*dx), acc[j])
			}
		}
	}
}

// blockDot is the integer dot product of a block's quants in one column and x; 4-bit
// quants count from 0 to 15.
func blockDot(t tensor.DType, q []byte, x []int8) (n int32) {
	for i, v := range x {
		switch {
		case t == tensor.Q8_0:
			n += int32(int8(q[i/4*param.NR*4+i%4])) * int32(v)
		case i < 16:
			n += int32(q[i/4*param.NR*4+i%4]&15) * int32(v)
		default:
			n += int32(q[(i-16)/4*param.NR*4+i%4]>>4) * int32(v)
		}
	}
	return n
}

// Row dequantises row o of W to dst, which has In elements.
func (w *Quant) Row(o int, dst []float32) {
	dst = dst[:w.In]
	panel, j, head := w.data[o/param.NR*w.panelBytes():], o%param.NR, w.headWords()
	for i := range dst {
		group := panel[i/BlockSize*w.groupBytes():]
		d := widenF16(binary.LittleEndian.Uint16(group[2*j:]))
		q, e := group[head*param.NR*2+j*4:], i%BlockSize
		switch w.Type {
		case tensor.Q8_0:
			dst[i] = float32(int8(q[e/4*param.NR*4+e%4])) * d
		default:
			v := q[e%16/4*param.NR*4+e%4] >> (e / 16 * 4) & 15
			if w.Type == tensor.Q4_0 {
				dst[i] = float32(int(v)-8) * d
			} else {
				m := widenF16(binary.LittleEndian.Uint16(group[(param.NR+j)*2:]))
				dst[i] = float32(float32(v)*d) + m
			}
		}
	}
}
