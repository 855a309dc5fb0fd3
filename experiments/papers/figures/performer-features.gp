# Columns: scale of the inputs, number of the arm, features, error, variance of the exact output.
arms = '"trig iid" "trig orthogonal" "positive iid" "positive orthogonal" "hyperbolic orthogonal" "regularised orthogonal"'
of(s, a, x) = column(1) == s && int(column(2)) == a ? x : NaN
set terminal svg size 900,360
set multiplot
set tmargin 3
set bmargin 4
set logscale xy
set xrange [12:340]
set xtics (16, 32, 64, 128, 256)
set xlabel 'features'
set ylabel 'mean square error'
set format y '10^{%T}'
set termoption enhanced
set nokey
set lmargin at screen 0.09
set rmargin at screen 0.38
set title 'Queries and keys 0.6 N(0, 1)'
plot for [a=1:6] data using (of(0.6, a, $3)):4 with linespoints linetype a, \
     data using ($1 == 0.6 ? $3 : NaN):5 with lines linetype 7 dashtype 2
set title 'Queries and keys N(0, 1)'
set lmargin at screen 0.47
set rmargin at screen 0.76
set key outside right center
plot for [a=1:6] data using (of(1, a, $3)):4 with linespoints linetype a title word(arms, a), \
     data using ($1 == 1 ? $3 : NaN):5 with lines linetype 7 dashtype 2 title 'variance of the output'
