# Columns: number of the mechanism, n, seconds on 1 rank, on 2, its name.
of(a, x) = int(column(1)) == a ? x : NaN
names = '"full" "window 256" "window 256, dilation 2" "window 256, first global" "performer 256" "linformer 256"'
set terminal svg size 700,380
set key outside right top
set xrange [*:*] noextend
set logscale xy
eval 'set xtics '.lengths
set xlabel 'n'
set ylabel 'seconds'
set title 'A training step, 1 rank (lines) and 2 (dashes)'
plot for [a=1:6] data using (of(a, $2)):3 with linespoints linetype a title word(names, a), \
     for [a=1:6] data using (of(a, $2)):4 with lines linetype a dashtype 2 notitle
