# Columns: k, n, time, published, memory, memory as if scores were kept, published.
ks = '128 256 512 1024 2048'
of(i, x) = int(column(1)) == int(word(ks, i)) ? x : NaN
set multiplot layout 1,2
set logscale xy
set xrange [400:80000]
eval 'set xtics '.lengths
set xlabel 'n'
set ylabel 'times as fast as full attention'
set title 'Time (dots: published)'
set yrange [0.8:100]
plot for [i=1:5] data using (of(i, $2)):3 with linespoints linetype i title 'k '.word(ks, i), \
     for [i=1:5] data using (of(i, $2)):4 with lines linetype i dashtype 3 notitle
set ylabel 'memory of full attention, times'
set title 'Memory (dashes: scores kept; dots: published)'
set yrange [0.8:1000]
plot for [i=1:5] data using (of(i, $2)):5 with linespoints linetype i notitle, \
     for [i=1:5] data using (of(i, $2)):6 with lines linetype i dashtype 2 notitle, \
     for [i=1:5] data using (of(i, $2)):7 with lines linetype i dashtype 3 notitle
