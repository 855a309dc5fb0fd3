# Checkpoints are plain HDF5: h5dump shows what io/checkpoint.h says is there. Skipped where there is no h5dump.
. "$LH_SOURCE/tests/cli/lib.sh"
command -v h5dump >dump || exit 77

write_text text.txt 6000
write_experiment tiny.yaml text.txt
train 2 tiny --set schedule.steps=2 --set checkpoint.every=2
file=$(checkpoint runs/tiny 2)
head -c 22 "$file" >head
says head 'longhaul checkpoint 1'

# attribute NAME VALUE
attribute() {
    h5dump -a "/$1" "$file" >dump
    says dump "(0): $2"
}
attribute format_version 1
attribute step 2
attribute samples 2
attribute tokens 256
attribute data_bytes 6000
attribute seed 3
attribute ranks 2
attribute data 1
attribute sequence 2
attribute optimizer 1
attribute complete 1
attribute layout '"contiguous"'
attribute precision "\"$LH_PRECISION\""
attribute program "\"$("$LONGHAUL" --version | awk '{ print $2 }')\""
h5dump -d /configuration "$file" >dump
says dump 'mechanism: sliding_window'
for set in parameters optimizer/m optimizer/v; do
    h5dump -d "/$set/embedding.token.weight" "$file" >dump
    says dump 'DATASPACE  SIMPLE { ( 256, 32 ) / ( 256, 32 ) }'
    says dump 'ATTRIBUTE "checksum"'
    same "numbers of $set" "$(sed -nE '0,/ATTRIBUTE/s/^ *\([0-9]+,[0-9]+\): //p' dump | tr -d ' \n' | tr ',' '\n' | grep -c .)" 8192
done
finish
