"""The command `dim-jax train`, for who has not installed it."""

from dim_jax.commands.train import main

if __name__ == '__main__':
  main()
