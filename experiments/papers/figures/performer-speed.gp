# Columns: n, seconds of full, relu, softmax, OPT.
set terminal svg size 620,400
set xrange [430:40000]
set logscale xy
eval 'set xtics '.lengths
set xlabel 'n'
set ylabel 'seconds'
set title 'A training step of one layer, width 512'
plot data using 1:2 with linespoints linetype 1 title 'full', data using 1:3 with linespoints linetype 2 title 'Performer, relu', \
     data using 1:4 with linespoints linetype 3 title 'Performer, softmax', data using 1:5 with linespoints linetype 7 title 'OPT'
